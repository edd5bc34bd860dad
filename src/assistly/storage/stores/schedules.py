"""Schedules: recurring posts, whose slots become jobs."""

from __future__ import annotations

import builtins
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal

from .. import validation as check
from ..engine.protocol import StorageBackend
from ..engine.values import Document, JobDraft
from ..errors import InvalidValue, NotFound
from ..records import Job, JobStatus, Json, Schedule, record
from ..recurrence import checked_cron, checked_every, zone_of
from ..transitions import ACTIVE, WAITING
from .context import Context
from .recurring import TICK, Plan, RemovedPlan, changed_plan, made, new_plan, times_of
from .scheduling import MOST_LATENESS, MOST_RETRIES

SCHEDULES = "schedules"
"""The collection of schedules, by id."""

NEXT_SLOTS = "schedules_next"
"""The collection of ids by next slot: its keys are the slot in digits, a colon and the id."""

REMOVED = "schedules_removed"
"""The collection of what stays of removed schedules, by id."""

DEFAULT_AHEAD = timedelta(days=1)
CATCH_UP = ("none", "last", "all")

_DIGITS = 18
_MOST_ID_BYTES = check.MAX_NAME_BYTES - len("schedule::") - len("9999-12-31T23:59:59.999999+00:00")
_MOST_BYTES = check.MAX_CONTENT_BYTES // 2
_PAGE = 100
_JOBS_AT_ONCE = 5000
_FINISHED_AT_ONCE = 100
_FIRST = datetime.min.replace(tzinfo=UTC)

Change = Callable[[Schedule | None, datetime], Schedule]
"""Makes the new schedule from the stored one and the time. Raises an error if that is not allowed."""


class Schedules:
    """`storage.schedules`: recurring posts.

    A schedule has slots: times by a cron expression in the wall-clock time of a zone, or at a fixed interval.
    `run` creates their jobs in advance. Workers call it when they start and once a minute; without a worker,
    call it yourself. A slot becomes a job at most once, however many callers run it: a removed or cancelled
    job does not come back. Ids have 1 to 470 bytes of UTF-8. All methods raise InvalidValue for wrong
    arguments; `now` is the time of the call (default: the storage's clock, else the engine's).
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def put(
        self,
        id: str,
        platform: str,
        content: str,
        *,
        cron: str | None = None,
        every: timedelta | None = None,
        zone: str = "UTC",
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        metadata: Mapping[str, Json] | None = None,
        max_lateness: timedelta | None = None,
        max_retries: int | None = None,
        catch_up: Literal["none", "last", "all"] = "none",
        enabled: bool = True,
        now: datetime | None = None,
    ) -> Schedule:
        """Store a schedule, or replace the one with this id, and return it.

        `cron` has five fields: minute, hour, day of month, month, day of week. A time that does not exist in
        `zone` (an IANA name), because clocks are set forward, means the next one that does; a time that
        exists twice means the first. Or `every` (at least a second): the slots are `starts_at` and each
        `every` after it. `starts_at` (default: that of the replaced schedule, else now) is the first possible
        slot, `ends_at` the last one (default: no end). Slots before now count as missed.

        `catch_up` decides which slots that have passed without a job, because nobody ran the schedules,
        become jobs: "none", the "last" one, or "all"; never one that is later than `max_lateness`. An
        existing job is published however late, unless `max_lateness` is set: always set it. `metadata`,
        `max_lateness` and `max_retries` are those of the jobs, as in `queue.schedule`; content and metadata
        have at most 512 KiB together.

        Waiting jobs of the schedule get the new platform, content, metadata, max_lateness and max_retries.
        Jobs of future slots that no longer exist are removed; `run` creates the jobs of new slots, from now
        on. Claimed and finished jobs are not changed.
        """
        check.flag("enabled", enabled)
        if type(catch_up) is not str or catch_up not in CATCH_UP:
            raise InvalidValue(f"catch_up must be one of {', '.join(CATCH_UP)}, not {check.shown(catch_up)}")
        if (cron is None) == (every is None):
            raise InvalidValue(
                "give either cron, such as '0 9 * * MON', or every, such as timedelta(hours=6)"
            )
        starts = check.optional_utc("starts_at", starts_at)
        text = check.EMPTY_OBJECT if metadata is None else check.canonical_object("metadata", metadata)
        schedule = Schedule(
            _identity(id),
            check.name("platform", platform),
            check.content("content", content),
            json.loads(text),
            None if cron is None else checked_cron(cron),
            None if every is None else checked_every(every),
            _zone(zone),
            starts or _FIRST,
            check.optional_utc("ends_at", ends_at),
            check.optional_duration("max_lateness", max_lateness, most=MOST_LATENESS),
            None
            if max_retries is None
            else check.whole("max_retries", max_retries, least=1, most=MOST_RETRIES),
            catch_up,
            enabled,
            _FIRST,
            _FIRST,
        )
        if starts and schedule.ends_at and schedule.ends_at < starts:
            raise InvalidValue(f"ends_at must not be before starts_at: {schedule.ends_at} is before {starts}")
        size = len(schedule.content.encode()) + len(text.encode())
        if size > _MOST_BYTES:
            raise InvalidValue(
                f"content and metadata of a schedule must have at most {_MOST_BYTES} bytes together, not "
                f"{size}"
            )

        def change(old: Schedule | None, at: datetime) -> Schedule:
            begin = starts or (at if old is None else old.starts_at)
            return replace(schedule, starts_at=begin, updated_at=at)

        return self._change(id, change, now)

    def get(self, id: str) -> Schedule | None:
        """Return the schedule with this id; None if there is none."""
        document = self._context.backend.documents.get(SCHEDULES, _identity(id))
        return None if document is None else _plan(document).schedule

    def list(self, *, after: Schedule | str | None = None, limit: int = 100) -> builtins.list[Schedule]:
        """Return a page of up to `limit` (1 to 1000) schedules by id, including disabled ones.

        `after` is the last schedule of the previous page, or its id.
        """
        last = after.id if isinstance(after, Schedule) else after
        check.optional_name("after", last)
        page = self._context.backend.documents.list(SCHEDULES, after=last, limit=check.limit(limit))
        return [_plan(document).schedule for document in page]

    def remove(self, id: str, *, now: datetime | None = None) -> bool:
        """Delete the schedule and its waiting jobs, and return whether there was one.

        Claimed and finished jobs stay. A later schedule with the same id creates the jobs of future slots
        that were deleted here again, but no job of any other slot that became a job of this schedule.
        """
        _identity(id)

        def attempt(backend: StorageBackend) -> bool:
            at = self._context.now(now, backend)
            document = backend.documents.get(SCHEDULES, id, lock=True)
            if document is None:
                return False
            plan = _plan(document)
            until = plan.schedule.made_until
            retries = self._context.policies.retry.max_retries
            slots = _reconciled(backend, plan, replace(plan.schedule, enabled=False), at, retries)
            # Of the slots whose jobs were deleted here, only those to come may become jobs again.
            settled = [slot for slot in plan.slots if slot > until and (slot in slots or slot < at)]
            removed = RemovedPlan(until, settled)
            text = check.canonical("schedule", removed.as_json())
            backend.documents.put(REMOVED, id, text, expected_version=None, now=at)
            backend.documents.delete(SCHEDULES, id)
            _store_next_slot(backend, id, plan.next_slot, None, at)
            return True

        return self._context.atomically(attempt)

    def enable(self, id: str, *, now: datetime | None = None) -> Schedule:
        """Enable the schedule, and return it. Its slots become jobs from now on. Raises NotFound."""
        return self._change(_identity(id), _enabled(id, enabled=True), now)

    def disable(self, id: str, *, now: datetime | None = None) -> Schedule:
        """Disable the schedule, and return it: removes its waiting jobs, and creates no more.

        Claimed and finished jobs stay. Slots that pass while it is disabled do not become jobs later. Raises
        NotFound.
        """
        return self._change(_identity(id), _enabled(id, enabled=False), now)

    def preview(self, id: str, count: int, *, now: datetime | None = None) -> builtins.list[datetime]:
        """Return the next `count` (1 to 1000) slots after now, in UTC, even of a disabled schedule.

        Returns fewer if the schedule ends before. Raises NotFound.
        """
        check.whole("count", count, least=1, most=check.MAX_LIMIT)
        schedule = self.get(id)
        if schedule is None:
            raise _not_found(id)
        return [*islice(times_of(schedule).since(self._context.now(now)), count)]

    def waiting(self, id: str) -> builtins.list[Job]:
        """Return the waiting jobs of the schedule by slot: `disable` and `remove` delete them.

        Raises NotFound.
        """
        backend = self._context.backend
        document = backend.documents.get(SCHEDULES, _identity(id))
        if document is None:
            raise _not_found(id)
        slots = sorted(_plan(document).slots.items())
        jobs = [backend.jobs.get(job) for _, job in slots if job is not None]
        return [job for job in jobs if job is not None and job.status in WAITING]

    def run(self, *, ahead: timedelta = DEFAULT_AHEAD, now: datetime | None = None) -> builtins.list[Job]:
        """Create the jobs of all slots up to now + `ahead` (default: a day), and return the created jobs.

        Any number of callers may run it at once. `ahead` must cover at least the time until the next run: a
        slot that has passed counts as missed (see `put`). For each schedule, up to 10,000 jobs are created at
        a time, and 20,000 may wait; the next run continues. A schedule whose zone this system does not know
        is skipped, with a warning in the log.
        """
        distance = check.duration("ahead", ahead, zero=True)
        at = self._context.now(now)
        until = check.later(at, distance)
        jobs: builtins.list[Job] = []
        after: str | None = None
        last = _digits(until)
        while page := self._context.backend.documents.list(NEXT_SLOTS, after=after, limit=_PAGE):
            # Callers lock schedules in the same order, so that none waits for one that waits for it.
            ids = sorted(entry.key[_DIGITS + 1 :] for entry in page if entry.key[:_DIGITS] <= last)
            while ids:
                batch, done = self._run_some(ids, at, until)
                jobs += batch
                ids = ids[done:]
            after = page[-1].key
            if len(page) < _PAGE or after[:_DIGITS] > last:
                break
        return jobs

    def _run_some(self, ids: Sequence[str], at: datetime, until: datetime) -> tuple[builtins.list[Job], int]:
        """Run the first of these schedules in one transaction; return the jobs, and how many were run."""
        retries = self._context.policies.retry.max_retries

        def attempt(backend: StorageBackend) -> tuple[builtins.list[Job], int]:
            due: builtins.list[_DuePlan] = []
            drafts: builtins.list[JobDraft] = []
            done = 0
            while done < len(ids) and len(drafts) < _JOBS_AT_ONCE:
                plan = _due_plan(backend, ids[done], at, until)
                done += 1
                if plan is not None:
                    due.append(plan)
                    drafts += _drafts(plan, retries)
            inserted = iter(backend.jobs.insert(drafts, now=at) if drafts else ())
            jobs: builtins.list[Job] = []
            for plan in due:
                made_now = {slot: next(inserted) for slot in plan.slots}
                _move_on(backend, plan, made_now, at)
                jobs += [job for job in made_now.values() if job is not None]
            return jobs, done

        return self._context.atomically(attempt)

    def _change(self, id: str, change: Change, now: datetime | None) -> Schedule:
        def attempt(backend: StorageBackend) -> Schedule:
            at = self._context.now(now, backend)
            while True:
                document = backend.documents.get(SCHEDULES, id, lock=True)
                if document is not None:
                    return self._replace(backend, _plan(document), change, at)
                schedule = change(None, at)
                removed = backend.documents.get(REMOVED, id, lock=True)
                plan = new_plan(schedule, None if removed is None else RemovedPlan.from_json(removed.data))
                if _store(backend, plan, None, at, expected_version=0):
                    backend.documents.delete(REMOVED, id)
                    return plan.schedule

        return self._context.atomically(attempt)

    def _replace(self, backend: StorageBackend, plan: Plan, change: Change, now: datetime) -> Schedule:
        new = replace(change(plan.schedule, now), made_until=plan.schedule.made_until)
        if _text(replace(plan, schedule=replace(new, updated_at=plan.schedule.updated_at))) == _text(plan):
            return plan.schedule
        changed = changed_plan(plan, new, now)
        slots = _reconciled(backend, plan, changed.schedule, now, self._context.policies.retry.max_retries)
        _store(backend, replace(changed, slots=slots), plan.next_slot, now)
        return changed.schedule


def _enabled(id: str, *, enabled: bool) -> Change:
    def change(old: Schedule | None, at: datetime) -> Schedule:
        if old is None:
            raise _not_found(id)
        return replace(old, enabled=enabled, updated_at=at)

    return change


def _reconciled(
    backend: StorageBackend, plan: Plan, schedule: Schedule, now: datetime, max_retries: int
) -> dict[datetime, int | None]:
    """Change the waiting jobs of the plan to those of the schedule; return the slots that stay in the plan.

    The slot of a job that is removed here is not among them: it may become a job again.
    """
    times = times_of(schedule)
    slots: dict[datetime, int | None] = {}
    for slot, id in plan.slots.items():
        job = None if id is None else backend.jobs.get(id)
        if job is not None and job.status in WAITING:
            # Claimed jobs are not locked: those who settle many of them lock them in another order.
            job = backend.jobs.get(job.id, lock=True)
        if job is None or job.status not in WAITING:
            if slot > schedule.made_until or (job is not None and job.status is JobStatus.PROCESSING):
                slots[slot] = id
        elif not schedule.enabled or (slot >= now and not times.has(slot)):
            backend.jobs.remove(job.id)
        else:
            _update(backend, job, schedule, now, max_retries)
            slots[slot] = id
    return slots


def _update(backend: StorageBackend, job: Job, schedule: Schedule, now: datetime, max_retries: int) -> None:
    changed = replace(
        job,
        platform=schedule.platform,
        content=schedule.content,
        metadata=schedule.metadata,
        max_lateness=schedule.max_lateness,
        max_retries=schedule.max_retries or max_retries,
    )
    metadata = [check.canonical("metadata", value.metadata) for value in (job, changed)]
    if changed != job or metadata[0] != metadata[1]:
        backend.jobs.save(replace(changed, updated_at=now))


@record
class _DuePlan:
    """A plan, what it is after the run, and the slots that become jobs in between."""

    before: Plan
    after: Plan
    slots: builtins.list[datetime]


def _due_plan(backend: StorageBackend, id: str, now: datetime, until: datetime) -> _DuePlan | None:
    """Lock the schedule; None if there is nothing to do, since another caller was faster."""
    document = backend.documents.get(SCHEDULES, id, lock=True)
    if document is None:
        return None
    plan = _plan(document)
    if plan.next_slot is None or plan.next_slot > until:
        return None
    try:
        slots, after = made(plan, now, until)
    except InvalidValue as error:
        logging.getLogger("assistly.storage").warning("schedule %r creates no jobs: %s", id, error)
        return None
    return _DuePlan(plan, after, slots)


def _drafts(plan: _DuePlan, max_retries: int) -> builtins.list[JobDraft]:
    schedule = plan.after.schedule
    metadata = check.canonical_object("metadata", schedule.metadata)
    return [
        JobDraft(
            schedule.platform,
            schedule.content,
            metadata,
            slot,
            _key(schedule.id, slot),
            schedule.max_retries or max_retries,
            schedule.max_lateness,
        )
        for slot in plan.slots
    ]


def _move_on(
    backend: StorageBackend, plan: _DuePlan, jobs: dict[datetime, Job | None], now: datetime
) -> None:
    """Store the plan with the jobs of its slots, and without slots whose jobs are finished."""
    until = plan.after.schedule.made_until
    finished = _finished(backend, plan.before, until, max(_FINISHED_AT_ONCE, 2 * len(jobs)))
    slots = {slot: id for slot, id in plan.before.slots.items() if slot not in finished}
    slots |= {slot: None if job is None else job.id for slot, job in jobs.items()}
    moved = replace(plan.after, slots=dict(sorted(slots.items())))
    _store(backend, moved, plan.before.next_slot, now)


def _finished(backend: StorageBackend, plan: Plan, until: datetime, most: int) -> set[datetime]:
    """The slots whose jobs are finished, of the first `most` that are not after `until`."""
    passed = islice(((slot, id) for slot, id in plan.slots.items() if slot <= until), most)
    return {slot for slot, id in passed if id is None or _is_finished(backend.jobs.get(id))}


def _is_finished(job: Job | None) -> bool:
    return job is None or job.status not in ACTIVE


def _store(
    backend: StorageBackend,
    plan: Plan,
    old_slot: datetime | None,
    now: datetime,
    expected_version: int | None = None,
) -> bool:
    id = plan.schedule.id
    if backend.documents.put(SCHEDULES, id, _text(plan), expected_version=expected_version, now=now) is None:
        return False
    _store_next_slot(backend, id, old_slot, plan.next_slot, now)
    return True


def _store_next_slot(
    backend: StorageBackend, id: str, old: datetime | None, new: datetime | None, now: datetime
) -> None:
    if old == new:
        return
    if old is not None:
        backend.documents.delete(NEXT_SLOTS, _next_slot_key(old, id))
    if new is not None:
        empty = check.EMPTY_OBJECT
        backend.documents.put(NEXT_SLOTS, _next_slot_key(new, id), empty, expected_version=None, now=now)


def _next_slot_key(slot: datetime, id: str) -> str:
    return f"{_digits(slot)}:{id}"


def _digits(moment: datetime) -> str:
    return f"{(moment - _FIRST) // TICK:0{_DIGITS}}"


def plans(schedules: Schedules, limit: int) -> list[Plan]:
    """Return the first schedules by id, each with the slots that have become jobs."""
    page = schedules._context.backend.documents.list(SCHEDULES, after=None, limit=limit)  # noqa: SLF001
    return [_plan(document) for document in page]


def plan_of(schedules: Schedules, id: str) -> Plan | None:
    """Return the schedule of this id with the slots that have become jobs; None if there is none."""
    document = schedules._context.backend.documents.get(SCHEDULES, _identity(id))  # noqa: SLF001
    return None if document is None else _plan(document)


def _plan(document: Document) -> Plan:
    return Plan.from_json(document.key, document.data)


def _text(plan: Plan) -> check.JsonText:
    return check.canonical("schedule", plan.as_json())


def _key(id: str, slot: datetime) -> str:
    """The idempotency key of the job of a slot."""
    return f"schedule:{id}:{slot.isoformat()}"


def _identity(id: object) -> str:
    text = check.name("id", id)
    size = len(text.encode())
    if size > _MOST_ID_BYTES:
        raise InvalidValue(
            f"id must have at most {_MOST_ID_BYTES} bytes of UTF-8, not {size}: it is part of the "
            "idempotency keys of the jobs"
        )
    return text


def _zone(zone: object) -> str:
    zone_of(zone)
    return check.name("zone", zone)


def _not_found(id: str) -> NotFound:
    return NotFound(f"there is no schedule {check.shown(id)}")
