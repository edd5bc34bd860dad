"""Inserts new jobs: at most one for each idempotency key, and with `min_gap` none too near to another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, cast

from .. import validation as check
from ..batching import RETRY_SINGLY, Answer, BatchedCall
from ..engine.protocol import StorageBackend
from ..engine.values import JobDraft
from ..errors import IdempotencyMismatch, InvalidValue, ScheduleConflict, StorageUnavailable
from ..records import TRACE_CONTEXT, Job, Json, NewJob, record
from .context import Context

_CHUNK = 10_000
"""How many jobs are records at the same time where none is returned."""

_RETURNING: dict[str, Callable[[list[Job]], list[Any]]] = {
    "jobs": lambda jobs: jobs,
    "ids": lambda jobs: [job.id for job in jobs],
    "none": lambda _: [],
}
_ATTEMPTS = 10
MOST_RETRIES = 2**31 - 1
# All the time between the years 1 and 9999: a larger limit would mean the same.
MOST_LATENESS = timedelta(days=3_652_059)


@record
class JobRequest:
    """A job to schedule, validated. Without `scheduled_at` it is due at the time of the call."""

    platform: str
    content: str
    metadata: check.JsonText
    scheduled_at: datetime | None
    idempotency_key: str | None
    max_retries: int
    max_lateness: timedelta | None
    min_gap: timedelta | None

    def draft(self, now: datetime) -> JobDraft:
        """The job to insert at `now`."""
        return JobDraft(
            self.platform,
            self.content,
            self.metadata,
            self.scheduled_at or now,
            self.idempotency_key,
            self.max_retries,
            self.max_lateness,
        )


class Scheduler:
    """Schedules jobs for `Queue` and `AsyncQueue`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.batched = BatchedCall(context, _insert_single, _insert_batch, _length)

    def request(self, new: NewJob) -> JobRequest:
        """Validate the arguments of `schedule`."""
        retries = self._context.policies.retry.max_retries if new.max_retries is None else new.max_retries
        return JobRequest(
            check.name("platform", new.platform),
            check.content("content", new.content),
            check.EMPTY_OBJECT if new.metadata is None else check.canonical_object("metadata", new.metadata),
            check.optional_utc("scheduled_at", new.scheduled_at),
            check.optional_name("idempotency_key", new.idempotency_key),
            check.whole("max_retries", retries, least=1, most=MOST_RETRIES),
            check.optional_duration("max_lateness", new.max_lateness, most=MOST_LATENESS),
            checked_gap("min_gap", new.min_gap),
        )

    def schedule(self, new: NewJob, now: datetime | None) -> Job:
        """See `Queue.schedule`."""
        request = self.request(new)
        if now is None and request.min_gap is None:
            return self.batched.call(request)
        (job,) = self._schedule_all([request], now)
        return cast(Job, job)

    def schedule_many(self, jobs: Iterable[NewJob], now: datetime | None, returning: object) -> list[Any]:
        """See `Queue.schedule_many`."""
        if type(returning) is not str or returning not in _RETURNING:
            raise InvalidValue(
                f"returning must be one of {', '.join(_RETURNING)}, not {check.shown(returning)}"
            )
        given = check.items("jobs", jobs, "NewJob")
        requests = [self._one_of_many(index, new) for index, new in enumerate(given)]
        return self._schedule_all(requests, now, returning) if requests else []

    def _one_of_many(self, index: int, new: object) -> JobRequest:
        if not isinstance(new, NewJob):
            raise check.wrong_type(f"jobs[{index}]", "a NewJob", new)
        try:
            return self.request(new)
        except InvalidValue as error:
            raise InvalidValue(f"jobs[{index}].{error}") from None

    def _schedule_all(
        self, requests: Sequence[JobRequest], now: datetime | None, returning: str = "jobs"
    ) -> list[Any]:
        at = self._context.now(now)
        kept = _RETURNING[returning]
        with_gaps = sorted({request.platform for request in requests if request.min_gap})
        if with_gaps:
            self._context.backend.jobs.prepare_gap_checks()
        elif len(requests) == 1:
            return kept([_insert(self._context.backend, requests[0].draft(at), at)])
        size = len(requests) if returning == "jobs" else _CHUNK

        def attempt(backend: StorageBackend) -> list[Any]:
            if with_gaps:
                backend.jobs.lock_platforms(with_gaps)
            results: list[Any] = []
            for start in range(0, len(requests), size):
                results += kept(_insert_in_order(backend, requests[start : start + size], at))
            return results

        return self._context.atomically(attempt)


def checked_gap(argument: str, gap: object) -> timedelta | None:
    """A validated gap. Zero becomes None: both mean that jobs may be at any distance."""
    return check.optional_duration(argument, gap) or None


def raise_conflict(
    backend: StorageBackend, platform: str, at: datetime, gap: timedelta, *, exclude: int | None = None
) -> None:
    """Raise ScheduleConflict if an active job on the platform is nearer to `at` than `gap`."""
    other = backend.jobs.in_window(platform, *check.window(at, gap), exclude=exclude)
    if other is not None:
        times = [time.isoformat(sep=" ", timespec="seconds") for time in (other.scheduled_at, at)]
        raise ScheduleConflict(
            f"job {other.id} on {platform!r} at {times[0]} is nearer than {gap} to {times[1]}", other
        )


def _length(request: JobRequest) -> int:
    return len(request.content) + len(request.metadata)


def _insert_single(context: Context, request: JobRequest) -> Job:
    backend = context.backend
    at = context.now(None)
    return _insert(backend, request.draft(at), at)


def _insert_batch(context: Context, requests: Sequence[JobRequest], now: datetime) -> Sequence[Answer]:
    """Insert a batch. A draft whose key is taken is retried singly, to compare it with the stored job."""
    jobs = context.backend.jobs.insert([request.draft(now) for request in requests], now=now)
    return [job or RETRY_SINGLY for job in jobs]


def _insert_all(backend: StorageBackend, drafts: Sequence[JobDraft], now: datetime) -> list[Job]:
    inserted = backend.jobs.insert(drafts, now=now)
    return [job or _insert(backend, draft, now) for draft, job in zip(drafts, inserted, strict=True)]


def _insert_in_order(backend: StorageBackend, requests: Sequence[JobRequest], now: datetime) -> list[Job]:
    """Insert in order: a job without a gap of its own counts for the gap of a later one."""
    jobs: list[Job] = []
    for has_gap, run in groupby(requests, key=lambda request: request.min_gap is not None):
        if has_gap:
            jobs += [_insert_with_gap(backend, request, now) for request in run]
        else:
            jobs += _insert_all(backend, [request.draft(now) for request in run], now)
    return jobs


def _insert_with_gap(backend: StorageBackend, request: JobRequest, now: datetime) -> Job:
    draft = request.draft(now)
    stored = _stored(backend, draft)
    if stored is not None:
        return stored
    if request.min_gap:
        raise_conflict(backend, draft.platform, draft.scheduled_at, request.min_gap)
    return _insert(backend, draft, now)


def _insert(backend: StorageBackend, draft: JobDraft, now: datetime) -> Job:
    for _ in range(_ATTEMPTS):
        job = backend.jobs.insert([draft], now=now)[0] or _stored(backend, draft)
        if job is not None:
            return job
    raise StorageUnavailable(
        f"idempotency key {draft.idempotency_key!r} was taken and removed by others in each of {_ATTEMPTS} "
        "attempts: try again"
    )


def _stored(backend: StorageBackend, draft: JobDraft) -> Job | None:
    """The job that has the draft's key, or None. Raises IdempotencyMismatch if it differs from the draft."""
    key = draft.idempotency_key
    job = None if key is None else backend.jobs.by_key(key)
    if key is None or job is None:
        return None
    differing = [
        field
        for field, same in (
            ("platform", job.platform == draft.platform),
            ("content", job.content == draft.content),
            ("metadata", _is_same_metadata(job.metadata, draft.metadata)),
        )
        if not same
    ]
    if differing:
        raise IdempotencyMismatch(
            f"idempotency key {key!r} belongs to job {job.id}, which has another {' and '.join(differing)}",
            key,
        )
    return job


def _is_same_metadata(stored: dict[str, Json], asked: check.JsonText) -> bool:
    """Whether they are equal but for the trace context, which differs each time a call is repeated."""
    if check.canonical("metadata", stored) == asked:
        return True
    both: list[dict[str, Json]] = [stored, json.loads(asked)]
    if not any(TRACE_CONTEXT in metadata for metadata in both):
        return False
    one, other = (
        check.canonical("metadata", {key: value for key, value in metadata.items() if key != TRACE_CONTEXT})
        for metadata in both
    )
    return one == other
