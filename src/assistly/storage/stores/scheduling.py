"""New jobs: one for each idempotency key, and none too near to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, groupby
from typing import overload

from .. import validation as check
from ..engine.protocol import StorageBackend
from ..engine.values import JobDraft
from ..errors import IdempotencyMismatch, InvalidValue, ScheduleConflict, StorageUnavailable
from ..records import Job, Json, NewJob
from .context import Context
from ..batching import RETRY_SINGLY, Answer, BatchedCall

_ATTEMPTS = 10
_MOST_RETRIES = 2**31 - 1
_NEVER = datetime.min.replace(tzinfo=UTC)
# From the first moment there is to the last: no job can be later than that.
_MOST_LATENESS = timedelta(days=3_652_059)

_make_draft = JobDraft
_Unfrozen: Any = JobDraft
_new = object.__new__

_Planned = tuple[JobDraft, timedelta | None]

Scheduling = tuple[JobDraft, bool]
"""A job to insert at the time of the call, and whether it is scheduled at that time, too."""


class Scheduler:
    def __init__(self, context: Context) -> None:
        self._context = context
        self.scheduling = BatchedCall(context, _schedule_one, _schedule_all, _length)

    def schedule(self, new: NewJob, now: datetime | None) -> Job:
        request = self.request(new, now)
        if request is not None:
            return self.scheduling.call(request)
        at = self._context.now(now)
        draft, gap = self._plan(new, at)
        if gap:
            self._context.backend.jobs.prepare_gap_checks()
            return self._context.atomically(lambda backend: _insert_apart(backend, draft, gap, at))
        return _insert(self._context.backend, draft, at)

    def request(self, new: NewJob, now: datetime | None) -> Scheduling | None:
        """None for a job that has to be scheduled alone: at a given time, or apart from others."""
        if now is not None or new.min_gap is not None:
            return None
        draft, _ = self._plan(new, _NEVER)
        return draft, draft.scheduled_at is _NEVER

    def schedule_plain(
        self,
        platform: str,
        content: str,
        scheduled_at: datetime | None,
        idempotency_key: str | None,
        metadata: dict[str, Json] | None,
        max_retries: int | None,
        max_lateness: timedelta | None,
    ) -> Job:
        """At no given time, and apart from no others."""
        draft = self._draft(
            platform, content, scheduled_at, idempotency_key, metadata, max_retries, max_lateness, _NEVER
        )
        return self.scheduling.call((draft, draft.scheduled_at is _NEVER))

    def schedule_many(self, jobs: Iterable[NewJob], now: datetime | None) -> list[Job]:
        if not isinstance(jobs, Iterable):
            raise check.wrong_type("jobs", "an iterable of NewJob", jobs)
        at = self._context.now(now)
        many = _Many([*jobs], lambda index, new: self._plan_one_of_many(index, new, at))
        if not many:
            return []
        if not many.has_gaps():
            return self._context.atomically(lambda backend: _insert_all(backend, many, at))
        self._context.backend.jobs.prepare_gap_checks()
        return self._context.atomically(lambda backend: _insert_apart_where_asked(backend, many, at))

    def _plan_one_of_many(self, index: int, new: NewJob, now: datetime) -> _Planned:
        if not isinstance(new, NewJob):
            raise check.wrong_type(f"jobs[{index}]", "a NewJob", new)
        try:
            return self._plan(new, now)
        except InvalidValue as error:
            raise _named(index, error) from None

    def _plan(self, new: NewJob, now: datetime) -> _Planned:
        draft = self._draft(
            new.platform,
            new.content,
            new.scheduled_at,
            new.idempotency_key,
            new.metadata,
            new.max_retries,
            new.max_lateness,
            now,
        )
        return draft, None if new.min_gap is None else checked_gap("min_gap", new.min_gap)

    def _draft(
        self,
        platform: str,
        content: str,
        scheduled_at: datetime | None,
        idempotency_key: str | None,
        metadata: dict[str, Json] | None,
        max_retries: int | None,
        max_lateness: timedelta | None,
        now: datetime,
    ) -> JobDraft:
        retries = self._context.policies.retry.max_retries if max_retries is None else max_retries
        return _make_draft(
            check.name("platform", platform),
            check.content("content", content),
            check.EMPTY_OBJECT if metadata is None else check.canonical_object("metadata", metadata),
            now if scheduled_at is None else check.utc("scheduled_at", scheduled_at),
            None if idempotency_key is None else check.name("idempotency_key", idempotency_key),
            check.whole("max_retries", retries, least=1, most=_MOST_RETRIES),
            check.optional_duration("max_lateness", max_lateness, most=_MOST_LATENESS),
        )


def _named(index: int, error: InvalidValue) -> InvalidValue:
    return InvalidValue(f"jobs[{index}].{error}")


def _schedule_one(context: Context, request: Scheduling) -> Job:
    at = context.now(None)
    return _insert(context.backend, _at(request, at), at)


def _schedule_all(context: Context, requests: Sequence[Scheduling], now: datetime) -> Sequence[Answer]:
    """Who finds his key taken goes alone, to look at whose it is."""
    drafts = [_at(request, now) for request in requests]
    return [job or RETRY_SINGLY for job in context.backend.jobs.insert(drafts, now=now)]


def _at(request: Scheduling, now: datetime) -> JobDraft:
    draft, is_now = request
    if is_now:
        # Nobody else has it, and another one would cost as much as all the checks.
        object.__setattr__(draft, "scheduled_at", now)
    return draft


def _length(request: Scheduling) -> int:
    return len(request[0].content) + len(request[0].metadata)


def checked_gap(argument: str, gap: object) -> timedelta | None:
    """None stands for no gap, as zero does: no two times are nearer than that."""
    return check.optional_duration(argument, gap) or None


def raise_conflict(
    backend: StorageBackend, platform: str, moment: datetime, gap: timedelta, *, exclude: int | None = None
) -> None:
    other = backend.jobs.in_window(platform, *check.window(moment, gap), exclude=exclude)
    if other is not None:
        raise ScheduleConflict(
            f"job {other.id} on {platform!r} is at {other.scheduled_at}, nearer than {gap} to {moment}", other
        )


def _with_content(draft: JobDraft, content: str) -> JobDraft:
    """Spelled out, since batches make many: `_make_draft` takes a third longer."""
    made = _new(_Unfrozen)
    made.platform = draft.platform
    made.content = content
    made.metadata = draft.metadata
    made.scheduled_at = draft.scheduled_at
    made.idempotency_key = draft.idempotency_key
    made.max_retries = draft.max_retries
    made.max_lateness = draft.max_lateness
    return made  # type: ignore[no-any-return]


class _Many(Sequence[JobDraft]):
    """Each is checked when it is asked for, so that an engine can store some of them meanwhile.

    On Postgres that, and that the drafts do not live on, takes a quarter off the time for 10,000.
    """

    def __init__(self, jobs: Sequence[NewJob], plan: Callable[[int, NewJob], _Planned]) -> None:
        self._jobs = jobs
        self._plan = plan

    def has_gaps(self) -> bool:
        """Also where one is no NewJob: then to plan all of them first is the way to find out."""
        return not all(type(job) is NewJob and job.min_gap is None for job in self._jobs)

    def planned(self) -> Iterator[_Planned]:
        return map(self._plan, count(), self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[JobDraft]:
        return self._drafts(range(len(self)))

    @overload
    def __getitem__(self, place: int) -> JobDraft: ...

    @overload
    def __getitem__(self, place: slice) -> list[JobDraft]: ...

    def __getitem__(self, place: int | slice) -> JobDraft | list[JobDraft]:
        if isinstance(place, int):
            return self._plan(place, self._jobs[place])[0]
        return [*self._drafts(range(*place.indices(len(self))))]

    def _drafts(self, places: Iterable[int]) -> Iterator[JobDraft]:
        """Of a job that has the very objects of an earlier one, the content alone is checked."""
        platform = at = retries = lateness = None
        plain: JobDraft | None = None
        for place in places:
            new = self._jobs[place]
            if new.metadata is not None or new.idempotency_key is not None:
                yield self._plan(place, new)[0]
            elif (
                plain is not None
                and new.platform is platform
                and new.scheduled_at is at
                and new.max_retries is retries
                and new.max_lateness is lateness
            ):
                try:
                    content = check.content("content", new.content)
                except InvalidValue as error:
                    raise _named(place, error) from None
                yield _with_content(plain, content)
            else:
                plain = self._plan(place, new)[0]
                platform, at = new.platform, new.scheduled_at
                retries, lateness = new.max_retries, new.max_lateness
                yield plain


def _insert_apart_where_asked(backend: StorageBackend, many: _Many, now: datetime) -> list[Job]:
    plan = [*many.planned()]
    backend.jobs.lock_platforms(sorted({draft.platform for draft, gap in plan if gap}))
    jobs: list[Job] = []
    for apart, run in groupby(plan, key=lambda planned: planned[1] is not None):
        if apart:
            jobs += [_insert_apart(backend, draft, gap, now) for draft, gap in run if gap]
        else:
            jobs += _insert_all(backend, [draft for draft, _ in run], now)
    return jobs


def _insert_all(backend: StorageBackend, drafts: Sequence[JobDraft], now: datetime) -> list[Job]:
    inserted = backend.jobs.insert(drafts, now=now)
    return [job or _insert(backend, drafts[place], now) for place, job in enumerate(inserted)]


def _insert_apart(backend: StorageBackend, draft: JobDraft, gap: timedelta, now: datetime) -> Job:
    backend.jobs.lock_platforms([draft.platform])
    stored = _stored(backend, draft)
    if stored is not None:
        return stored
    raise_conflict(backend, draft.platform, draft.scheduled_at, gap)
    return _insert(backend, draft, now)


def _insert(backend: StorageBackend, draft: JobDraft, now: datetime) -> Job:
    for _ in range(_ATTEMPTS):
        job = backend.jobs.insert([draft], now=now)[0] or _stored(backend, draft)
        if job is not None:
            return job
    raise StorageUnavailable(
        f"idempotency key {draft.idempotency_key!r} was taken and removed by others all the time: try again"
    )


def _stored(backend: StorageBackend, draft: JobDraft) -> Job | None:
    key = draft.idempotency_key
    job = None if key is None else backend.jobs.by_key(key)
    if key is None or job is None:
        return None
    differing = [
        field
        for field, same in (
            ("platform", job.platform == draft.platform),
            ("content", job.content == draft.content),
            ("metadata", check.canonical("metadata", job.metadata) == draft.metadata),
        )
        if not same
    ]
    if differing:
        raise IdempotencyMismatch(
            f"idempotency key {key!r} belongs to job {job.id}, which has another {' and '.join(differing)}",
            key,
        )
    return job
