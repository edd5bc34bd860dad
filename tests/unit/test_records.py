"""Records: plain values that compare, copy and pickle, and that type checkers do not let anybody change."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import astuple, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest

import assistly.storage
from assistly.storage import (
    ClaimState,
    IdempotencyClaim,
    Job,
    JobStatus,
    PrunableCount,
    PruneReport,
    records,
)

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
VALUES: dict[str, Any] = {
    field.name: None if "None" in str(field.type) else index for index, field in enumerate(fields(Job))
} | {"status": JobStatus.SCHEDULED, "metadata": {"a": 1}, "max_lateness": timedelta(1), "attempts": ()}
RECORDS = [kind for kind in vars(records).values() if inspect.isclass(kind) and is_dataclass(kind)]


@pytest.fixture
def job() -> Job:
    return Job(**VALUES)


def test_it_is_copied_pickled_and_replaced(job: Job) -> None:
    assert astuple(job) == tuple(VALUES.values())
    assert pickle.loads(pickle.dumps(job)) == copy.deepcopy(job) == job
    moved = replace(job, scheduled_at=NOW)
    assert (type(moved), moved.scheduled_at, moved.id) == (Job, NOW, job.id)
    assert moved != job


def test_a_type_checker_takes_it_for_frozen(job: Job) -> None:
    """mypy finds the error that is ignored here, and would find an ignored error that is none."""
    job.claim = 7  # type: ignore[misc]


def test_every_field_is_needed() -> None:
    with pytest.raises(TypeError):
        Job(1, 2, 3)  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_record_has_slots_and_says_what_it_is(kind: type) -> None:
    assert "__dict__" not in dir(kind)
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "the docstring is the generated one"


def test_public_values_say_what_they_are() -> None:
    public = {getattr(assistly.storage, name) for name in assistly.storage.__all__ if name[0].isupper()}
    enums = [kind for kind in vars(records).values() if inspect.isclass(kind) and issubclass(kind, Enum)]
    undocumented = [kind for kind in [*public, *enums] if inspect.isclass(kind) and not kind.__doc__]
    assert not undocumented


def test_the_token_of_a_claim_is_not_shown() -> None:
    claim = IdempotencyClaim("key", ClaimState.ACQUIRED, None, None, NOW, 4711)
    assert "4711" not in repr(claim)
    assert claim != replace(claim, token=1)


def test_a_report_adds_up() -> None:
    assert PruneReport(True, 1, 2, 3, 4, 5, 6).total == 21
    assert PrunableCount(1, 2).total == 3
