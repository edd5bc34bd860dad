"""Records that engines make in great numbers are the same records."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, astuple, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from assistly.storage.engine.protocol import JobDraft
from assistly.storage.engines.sql.new_jobs import new_job
from assistly.storage.records import Job, JobStatus, maker
from assistly.storage.validation import JsonText

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
VALUES: dict[str, Any] = {
    field.name: None if "None" in str(field.type) else index for index, field in enumerate(fields(Job))
} | {"status": JobStatus.SCHEDULED, "metadata": {"a": 1}, "max_lateness": timedelta(1), "attempts": ()}


@pytest.fixture
def made() -> Job:
    return maker(Job)(*VALUES.values())


def test_it_is_equal_to_one_made_the_usual_way(made: Job) -> None:
    usual = Job(**VALUES)
    assert type(made) is Job
    assert made == usual
    assert repr(made) == repr(usual)
    assert astuple(made) == tuple(VALUES.values())


def test_a_new_job_is_one_like_any_other() -> None:
    draft = JobDraft("x", "a", JsonText('{"a":1}'), NOW, "key", 3, timedelta(1))
    new = new_job(7, draft, NOW + timedelta(2))
    assert type(new) is Job
    assert astuple(replace(new)) == astuple(new)
    assert pickle.loads(pickle.dumps(new)) == new
    with pytest.raises(FrozenInstanceError):
        new.claim = 7  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del new.claim


def test_it_is_frozen(made: Job) -> None:
    with pytest.raises(FrozenInstanceError):
        made.claim = 7  # type: ignore[misc]
    assert not hasattr(made, "__dict__")


def test_it_is_copied_pickled_and_replaced_as_one(made: Job) -> None:
    assert pickle.loads(pickle.dumps(made)) == made
    assert copy.deepcopy(made) == made
    moved = replace(made, scheduled_at=NOW)
    assert (type(moved), moved.scheduled_at, moved.id) == (Job, NOW, made.id)


def test_every_field_is_needed() -> None:
    with pytest.raises(TypeError):
        maker(Job)(1, 2, 3)
