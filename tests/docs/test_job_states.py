"""The picture of the life of a job in docs/reference/job-states.md is what `transitions` allows."""

from __future__ import annotations

import inspect
from datetime import datetime
from pathlib import Path

import pytest

from assistly.storage import transitions
from assistly.storage.records import Job, JobStatus
from docs import job_states

TEXT = job_states.PAGE.read_text(encoding="utf-8")


def test_the_picture_is_up_to_date() -> None:
    for mark in (job_states.BEGIN, job_states.END, job_states.BEGIN_TABLE, job_states.END_TABLE):
        assert TEXT.count(mark) == 1
    assert job_states.drawn(TEXT) == TEXT, "draw it anew: python -m tests.docs.job_states"


def test_it_shows_every_status() -> None:
    states = {state for before, _, after in job_states.ways() for state in (before, after)}
    assert states == {*JobStatus, "publishing", "outcome_unknown"}


def test_it_tries_every_transition_of_a_job() -> None:
    changes = {
        name
        for name, function in inspect.getmembers(transitions, inspect.isfunction)
        if not name.startswith("_") and inspect.signature(function).return_annotation == "Job | None"
    }
    assert len(changes) >= 11
    source = Path(job_states.__file__).read_text(encoding="utf-8")
    assert {name for name in changes if f"transitions.{name}(" not in source} == set()


def test_another_rule_is_another_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled(job: Job, *, now: datetime) -> Job | None:
        return transitions.replace(job, status=JobStatus.CANCELLED)  # type: ignore[attr-defined]

    monkeypatch.setattr(transitions, "cancelled", cancelled)
    assert "publishing --> cancelled" in job_states.drawn(TEXT)
