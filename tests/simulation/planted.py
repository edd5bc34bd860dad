"""Bugs that the simulation has to find, in the worker, in the stores and in the engines.

Each is a function that replaces something of the code under test, and returns what was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from assistly.storage import records, transitions
from assistly.storage.engine.keyvalue import jobs as keyvalue_jobs
from assistly.storage.engine.keyvalue import keys, waking
from assistly.storage.errors import StorageError
from assistly.storage.records import Failed, Job
from assistly.storage.retention import milliseconds
from assistly.storage.stores import claiming, events, idempotency, metrics, nonces, scheduling, settling
from assistly.storage.stores.sessions import Sessions
from assistly.worker import claimed_jobs, pauses, processing, slots, storage_calls

Replacement = tuple[Any, str, Any]
Planted = Callable[[], list[Replacement]]

PLANTED: dict[str, Planted] = {}


def _planted(function: Planted) -> Planted:
    PLANTED[function.__name__.replace("_", "-")] = function
    return function


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """The code under test has this bug inside the block; none with None."""
    replacements = [] if name is None else PLANTED[name]()
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in replacements]
    for owner, attribute, value in replacements:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)


# The worker


@_planted
def begin_publish_is_skipped() -> list[Replacement]:
    def begin_publish(self: Any, job: Job, may_begin: Callable[[], bool]) -> Job | None:
        return job if may_begin() else None

    return [
        (storage_calls.RetriedCalls, "begin_publish", begin_publish),
        (storage_calls.RetriedCalls, "begin_publish_many", lambda self, jobs: jobs),
    ]


@_planted
def an_outcome_is_not_stored_again_after_a_lost_reply() -> list[Replacement]:
    def _settle(self: Any, outcome: Any, in_doubt: bool) -> Any:
        try:
            return self._queue.settle([outcome]).jobs[0]
        except (StorageError, IndexError):
            return storage_calls.NotSettled.NOT_STORED

    return [(storage_calls.RetriedCalls, "_settle", _settle)]


@_planted
def slots_leak() -> list[Replacement]:
    original = slots.PlatformSlots.release

    def release(self: Any, names: Any) -> None:
        original(self, [*names][1:])

    return [(slots.PlatformSlots, "release", release)]


@_planted
def the_heartbeat_extends_the_first_job_only() -> list[Replacement]:
    original = claimed_jobs.ClaimedJobs._extend

    def _extend(self: Any, claimed: Any) -> None:
        original(self, claimed[:1])

    return [(claimed_jobs.ClaimedJobs, "_extend", _extend)]


@_planted
def a_lost_slot_is_published_under() -> list[Replacement]:
    def renew(self: Any) -> None:
        """Renew nothing."""

    return [(slots.PlatformSlots, "renew", renew)]


@_planted
def pauses_are_forgotten() -> list[Replacement]:
    return [(pauses.PlatformPauses, "remaining", lambda self, platform, claimed_at: 0.0)]


@_planted
def a_stopping_worker_begins_jobs() -> list[Replacement]:
    def _may_begin(self: Any, claimed: Any) -> bool:
        return not self._pauses.remaining(claimed.job.platform, claimed.claimed_at)

    return [(processing.JobProcessor, "_may_begin", _may_begin)]


@_planted
def an_unknown_outcome_is_retried() -> list[Replacement]:
    return [(records, "Unknown", Failed)]


# The stores


@_planted
def rescue_ignores_that_publishing_began() -> list[Replacement]:
    original = settling.expire

    def expire(job: Job, retry: Any, now: Any) -> Any:
        return replace(original(replace(job, publish_started_at=None), retry, now), keep_publish=True)

    return [(claiming, "expire", expire)]


@_planted
def updates_of_sessions_are_two_steps() -> list[Replacement]:
    def update(self: Any, user_id: str, change: Any, *, default: Any = None, now: Any = None) -> Any:
        found = self.get(user_id)
        return self.put(user_id, change(found.data if found else default), now=now)

    return [(Sessions, "update", update)]


@_planted
def a_gap_is_checked_before_the_transaction() -> list[Replacement]:
    def _insert_in_order(backend: Any, requests: Any, now: Any) -> Any:
        return [scheduling._insert(backend, request.draft(now), now) for request in requests]

    original = scheduling.Scheduler._schedule_all

    def _schedule_all(self: Any, requests: Any, now: Any, returning: str = "jobs") -> Any:
        for request in requests:
            if request.min_gap and request.idempotency_key is None:
                at = request.scheduled_at or self._context.now(now)
                scheduling.raise_conflict(self._context.backend, request.platform, at, request.min_gap)
        return original(self, requests, now, returning)

    return [
        (scheduling, "_insert_in_order", _insert_in_order),
        (scheduling.Scheduler, "_schedule_all", _schedule_all),
    ]


@_planted
def equal_keys_in_a_batch_are_all_acquired() -> list[Replacement]:
    def _claim_batch(context: Any, requests: Any, now: Any) -> Any:
        return [idempotency._claim(_row(context, request, now), request) for request in requests]

    def _row(context: Any, request: Any, now: Any) -> Any:
        (row,) = context.backend.idempotency.claim_many([request.at(now)])
        return replace(row, token=request.token) if not row.completed else row

    def _claim_single(context: Any, request: Any) -> Any:
        return _claim_batch(context, [request], context.now(None))[0]

    return [(idempotency, "_claim_batch", _claim_batch), (idempotency, "_claim_single", _claim_single)]


@_planted
def increments_of_a_batch_are_stored_once() -> list[Replacement]:
    def _increment_batch(context: Any, requests: Any, _: Any) -> Any:
        context.backend.metrics.increment_many(dict(requests))
        return [None] * len(requests)

    return [(metrics, "_increment_batch", _increment_batch)]


@_planted
def equal_nonces_in_a_batch_are_all_new() -> list[Replacement]:
    def _register_batch(context: Any, requests: Any, now: Any) -> Any:
        rows = {nonce: milliseconds(timestamp or now) for nonce, timestamp in requests}
        is_new = dict(zip(rows, context.backend.nonces.register_many([*rows.items()]), strict=True))
        return [is_new[nonce] for nonce, _ in requests]

    return [(nonces, "_register_batch", _register_batch)]


@_planted
def a_late_job_is_not_looked_for() -> list[Replacement]:
    def is_late(job: Job, now: Any) -> bool:
        return False

    return [(transitions, "is_late", is_late)]


@_planted
def the_last_event_of_a_page_is_skipped() -> list[Replacement]:
    original = events.Events.read_after

    def read_after(self: Any, id: Any, *, event_type: Any = None, limit: int = 100) -> Any:
        page = original(self, id, event_type=event_type, limit=limit)
        return page[:-2] + page[-1:] if len(page) == limit and limit > 1 else page

    return [(events.Events, "read_after", read_after)]


@_planted
def cancel_ignores_that_publishing_began() -> list[Replacement]:
    original = transitions.cancelled

    def cancelled(job: Job, *, now: Any) -> Job | None:
        return original(replace(job, publish_started_at=None), now=now)

    return [(transitions, "cancelled", cancelled)]


@_planted
def a_known_outcome_is_resolved() -> list[Replacement]:
    def resolved_unpublished(job: Job, *, now: Any) -> Job | None:
        return transitions.replayed(replace(job, status=records.JobStatus.DEAD_LETTER), now, now=now)

    return [(transitions, "resolved_unpublished", resolved_unpublished)]


# The engines


@_planted
def a_claim_forgets_the_pauses() -> list[Replacement]:
    def pauses(self: Any, now: Any) -> Any:
        return {}

    return [(keyvalue_jobs.KeyValueJobs, "pauses", pauses)]


@_planted
def settling_ignores_the_fence() -> list[Replacement]:
    def holds(job: Job, claim: int) -> bool:
        return job.status is records.JobStatus.PROCESSING

    return [(transitions, "holds", holds)]


@_planted
def the_heartbeat_extends_what_ran_out() -> list[Replacement]:
    def _holds_lease(job: Job, claim: int, now: Any) -> bool:
        return transitions.holds(job, claim)

    return [(transitions, "_holds_lease", _holds_lease)]


@_planted
def keys_are_completed_without_a_fence() -> list[Replacement]:
    def holds_key(row: Any, token: int) -> bool:
        return row is not None and not row.completed

    return [(transitions, "holds_key", holds_key)]


@_planted
def wake_ups_are_lost() -> list[Replacement]:
    def add(self: Any) -> None:
        self._count += 1

    return [(waking.Changes, "add", add)]


@_planted
def a_release_costs_an_attempt() -> list[Replacement]:
    original = transitions._handed_back

    def _handed_back(job: Job, next_retry_at: Any) -> Job:
        return original(replace(job, retries=job.retries + 1), next_retry_at)

    return [(transitions, "_handed_back", _handed_back)]


@_planted
def a_job_is_removed_and_its_key_stays() -> list[Replacement]:
    original = keyvalue_jobs.KeyValueJobs.delete_row

    def delete_row(self: Any, map: Any, id: int) -> bool:
        job = self.get(id)
        found = original(self, map, id)
        if found and job is not None and job.idempotency_key is not None:
            map.put(keys.JOBS_BY_KEY + job.idempotency_key.encode(), b"")
        return found

    return [(keyvalue_jobs.KeyValueJobs, "delete_row", delete_row)]
