"""Which jobs a filter accepts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from assistly.storage import Job, Storage
from assistly.storage.engines.memory import MemoryBackend
from assistly.views.job_filter import JobFilter, matching

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def job() -> Job:
    with Storage(MemoryBackend(), clock=lambda: NOW) as storage:
        job = storage.queue.schedule(
            "mastodon", "Fresh bread", NOW, idempotency_key="key-17", metadata={"author": "Zoë", "n": 3}
        )
        (job,) = storage.queue.claim_due(worker_id="w")
        job = storage.queue.begin_publish(job)
        storage.queue.checkpoint(job, {"container": "c-99"})
        storage.queue.mark_failed(job, "HTTP 502 from the Platform")
        found = storage.queue.get(job.id)
        assert found is not None
        return found


@pytest.mark.parametrize("text", ["fresh BREAD", "key-17", "zoë", "author", "c-99", "http 502"])
def test_a_text_is_looked_for_in_the_whole_job(job: Job, text: str) -> None:
    assert JobFilter(text=text).accepts(job)
    assert not JobFilter(text=f"{text}!").accepts(job)
    assert JobFilter(match=text).accepts(job) == (text == "fresh BREAD"), "match looks at the content alone"


def test_texts_of_two_fields_do_not_run_into_each_other(job: Job) -> None:
    assert not JobFilter(text="breadkey").accepts(job)


def test_kinds_of_dead_letters() -> None:
    with Storage(MemoryBackend(), clock=lambda: NOW) as storage:
        late = storage.queue.schedule("x", "late", NOW - timedelta(days=1), max_lateness=timedelta(hours=1))
        assert storage.queue.claim_due(worker_id="w") == []
        storage.queue.schedule("x", "unknown", NOW)
        (job,) = storage.queue.claim_due(worker_id="w")
        storage.queue.mark_unknown(storage.queue.begin_publish(job), "no answer")
        assert [found.id for found in matching(storage, JobFilter(kind="unknown"))] == [job.id]
        assert [found.id for found in matching(storage, JobFilter(kind="missed"))] == [late.id]
        storage.queue.schedule("x", "waits", NOW + timedelta(days=1))
        storage.queue.schedule("x", "refused", NOW)
        (refused,) = storage.queue.claim_due(worker_id="w")
        storage.queue.mark_failed(refused, "no such account", retryable=False)
        assert [found.id for found in matching(storage, JobFilter(kind="other"))] == [refused.id]


def test_looking_ends_when_it_has_to() -> None:
    with Storage(MemoryBackend(), clock=lambda: NOW) as storage:
        for number in range(10):
            storage.queue.schedule("x", f"post {number}", NOW)
        left = iter([False] * 4 + [True] * 100)
        found = [
            job.content for job in matching(storage, JobFilter(match="post 3"), until=lambda: next(left))
        ]
        assert found == ["post 3"]
        left = iter([False] * 3 + [True] * 100)
        assert [*matching(storage, JobFilter(match="post 3"), until=lambda: next(left))] == []
