"""Batches of jobs on SQLite, which go the way of few statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assistly.storage.engine.values import JobDraft, JsonText, Settlement
from assistly.storage.engines.sqlite import SqliteBackend
from assistly.storage.records import Job, JobStatus

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[SqliteBackend]:
    backend = SqliteBackend(tmp_path / "assistly.db")
    yield backend
    backend.close()


def drafts(*keys: str | None) -> list[JobDraft]:
    return [
        JobDraft("x", f"post {place}", JsonText('{"n":1}'), NOW, key, 3, timedelta(hours=1))
        for place, key in enumerate(keys)
    ]


def ids(jobs: object) -> list[int | None]:
    assert isinstance(jobs, list)
    return [None if job is None else job.id for job in jobs]


def claimed(backend: SqliteBackend, count: int) -> list[Job]:
    backend.jobs.insert(drafts(*[None] * count), now=NOW)
    return [*backend.jobs.claim(worker_id="w", limit=count, lease_until=LATER, platforms=None, now=NOW)]


def eventful(backend: SqliteBackend) -> list[Job]:
    """Claimed jobs that were dead letters, replayed, and failed once more."""
    backend.jobs.insert(drafts("a", "b"), now=NOW)

    def claim(at: datetime) -> list[Job]:
        return [*backend.jobs.claim(worker_id="w", limit=9, lease_until=LATER, platforms=None, now=at)]

    for job in claim(NOW):
        dead = Settlement("failed", job, error="dead", at=NOW, final=True)
        backend.jobs.settle([dead], now=NOW)
        backend.jobs.replay(job.id, NOW, now=NOW)
    retry_at = NOW + timedelta(seconds=1)
    for job in claim(NOW):
        backend.jobs.settle([Settlement("failed", job, error="again", at=retry_at)], now=NOW)
    return claim(retry_at)


class TestInsert:
    def test_what_it_returns_is_what_it_stored(self, backend: SqliteBackend) -> None:
        plain = JobDraft("x", "post", JsonText("{}"), LATER, None, 3, None)
        due_now = replace(plain, scheduled_at=NOW)
        late, keyed = replace(plain, max_lateness=timedelta(hours=1)), replace(plain, idempotency_key="k")
        for batch in (drafts("a"), drafts("b", None, "c"), [plain], [due_now], [late], [keyed]):
            for job in backend.jobs.insert(batch, now=NOW):
                assert job is not None
                assert backend.jobs.get(job.id) == job

    def test_taken_keys_take_no_ids(self, backend: SqliteBackend) -> None:
        assert ids(backend.jobs.insert(drafts("a"), now=NOW)) == [1]
        batch = drafts("a", "b", None, "b", "c", "a", None)
        assert ids(backend.jobs.insert(batch, now=NOW)) == [None, 2, 3, None, 4, None, 5]
        assert ids(backend.jobs.insert(drafts("a", "b"), now=NOW)) == [None, None]
        assert ids(backend.jobs.insert(drafts("a"), now=NOW)) == [None]
        assert backend.jobs.counts()[JobStatus.SCHEDULED] == 5

    def test_ids_of_removed_jobs_are_not_given_again(self, backend: SqliteBackend) -> None:
        backend.jobs.insert(drafts(None, None), now=NOW)
        backend.jobs.remove(2)
        backend.jobs.remove(1)
        assert ids(backend.jobs.insert(drafts(None, None), now=NOW)) == [3, 4]
        backend.jobs.remove(4)
        assert ids(backend.jobs.insert(drafts(None), now=NOW)) == [5]

    def test_in_a_transaction_that_is_undone(self, backend: SqliteBackend) -> None:
        with suppress(ZeroDivisionError), backend.transaction() as transaction:
            transaction.jobs.insert(drafts("a", "b"), now=NOW)
            raise ZeroDivisionError
        assert ids(backend.jobs.insert(drafts("b", "a"), now=NOW)) == [1, 2]


class TestClaim:
    def test_what_it_returns_is_what_it_stored(self, backend: SqliteBackend) -> None:
        for job in eventful(backend):
            assert job.attempts
            assert job.replayed_at
            assert job == backend.jobs.get(job.id)

    def test_in_order(self, backend: SqliteBackend) -> None:
        times = [NOW - timedelta(seconds=seconds) for seconds in (1, 3, 2, 3, 0)]
        backend.jobs.insert(
            [replace(draft, scheduled_at=at) for draft, at in zip(drafts(*[None] * 5), times, strict=True)],
            now=NOW,
        )
        jobs = backend.jobs.claim(worker_id="w", limit=4, lease_until=LATER, platforms=["x"], now=NOW)
        assert [job.id for job in jobs] == [2, 4, 3, 1]


class TestSettle:
    @pytest.mark.parametrize("remote_id", [None, "7"])
    def test_what_became_of_the_job_before_is_kept(
        self, backend: SqliteBackend, remote_id: str | None
    ) -> None:
        jobs = eventful(backend)
        for job in jobs:
            backend.jobs.begin_publish(job.id, job.claim, now=job.updated_at)
        settled = backend.jobs.settle(
            [Settlement("posted", job, remote_id=remote_id) for job in jobs], now=LATER
        )
        assert settled == [backend.jobs.get(job.id) for job in jobs]
        assert [job.last_error for job in settled if job] == ["again"] * 2

    def test_what_it_returns_is_what_it_stored(self, backend: SqliteBackend) -> None:
        jobs = claimed(backend, 3)
        backend.jobs.begin_publish(jobs[0].id, jobs[0].claim, now=NOW)
        settled = backend.jobs.settle([Settlement("posted", job) for job in jobs], now=LATER)
        assert settled == [backend.jobs.get(job.id) for job in jobs]
        assert [job.status for job in settled if job] == [JobStatus.POSTED] * 3
        assert [job.publish_started_at for job in settled if job] == [NOW, None, None]

    def test_each_has_its_own_remote_id(self, backend: SqliteBackend) -> None:
        remote_ids = ["7", '"quoted"', "\\u0041", "\u2028 é 🙂", None, "a" * 512, "null", "[1]"]
        jobs = claimed(backend, len(remote_ids))
        batch = [
            Settlement("posted", job, remote_id=remote_id)
            for job, remote_id in zip(jobs, remote_ids, strict=True)
        ]
        settled = backend.jobs.settle(batch[::-1], now=LATER)
        assert [job.remote_id for job in settled if job] == remote_ids[::-1]
        assert [stored.remote_id for job in jobs if (stored := backend.jobs.get(job.id))] == remote_ids

    def test_the_first_end_of_a_claim_counts_whatever_its_kind(self, backend: SqliteBackend) -> None:
        first, second, third = claimed(backend, 3)
        settled = backend.jobs.settle(
            [
                Settlement("released", first),
                Settlement("posted", first),
                Settlement("posted", second, remote_id="kept"),
                Settlement("failed", second, error="late", at=LATER),
                Settlement("posted", replace(third, claim=third.claim + 1), remote_id="not the holder's"),
                Settlement("posted", third, remote_id="the holder's"),
                Settlement("posted", replace(third, claim=third.claim - 1), remote_id="overtaken"),
            ],
            now=LATER,
        )
        assert [None if job is None else job.status for job in settled] == [
            JobStatus.SCHEDULED,
            None,
            JobStatus.POSTED,
            None,
            None,
            JobStatus.POSTED,
            None,
        ]
        assert [job.remote_id for job in settled if job] == [None, "kept", "the holder's"]

    def test_lost_ones_change_nothing(self, backend: SqliteBackend) -> None:
        jobs = claimed(backend, 2)
        before = [backend.jobs.get(job.id) for job in jobs]
        batch = [Settlement("posted", replace(job, claim=job.claim + 1)) for job in jobs]
        absent = [Settlement("posted", replace(jobs[0], id=id)) for id in (99, 2**63 - 1)]
        assert backend.jobs.settle(batch + absent, now=LATER) == [None] * 4
        assert [backend.jobs.get(job.id) for job in jobs] == before
