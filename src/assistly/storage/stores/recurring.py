"""Which slots of a schedule become jobs, and what is stored to know it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from .. import validation as check
from ..records import Schedule, record
from ..recurrence import Times

MOST_AT_ONCE = 10_000
"""Slots of one schedule that become jobs at a time; the next run goes on."""

MOST_OPEN = 20_000
"""Slots of one schedule whose jobs may be waiting."""

TICK = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@record
class Plan:
    """A schedule as it is stored. `schedule.made_until` and `next_slot` only move on.

    A slot is *settled*, and does not become a job any more, if it is not after `schedule.made_until`, or in
    `slots`. `next_slot` is the first one that is not; None if there is none, or the schedule is disabled.
    `slots` are those that became jobs and are after made_until, or whose jobs may not be finished, each with
    the id of its job: None where the idempotency key was taken, by a job that is not the schedule's.
    """

    schedule: Schedule
    next_slot: datetime | None
    slots: dict[datetime, int | None]

    @classmethod
    def from_json(cls, id: str, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        fields = dict(data)
        next_slot = _optional_moment(fields.pop("next_slot"))
        slots = {_moment(slot): job for slot, job in fields.pop("slots")}
        for name in ("starts_at", "updated_at", "made_until"):
            fields[name] = _moment(fields[name])
        for name in ("every", "max_lateness"):
            fields[name] = None if fields[name] is None else fields[name] * TICK
        fields["ends_at"] = _optional_moment(fields["ends_at"])
        return cls(Schedule(id, **fields), next_slot, slots)

    def as_json(self) -> dict[str, Any]:
        """What is stored. Times are microseconds since 1970, durations microseconds."""
        schedule = self.schedule
        return {
            "platform": schedule.platform,
            "content": schedule.content,
            "metadata": schedule.metadata,
            "cron": schedule.cron,
            "every": None if schedule.every is None else schedule.every // TICK,
            "zone": schedule.zone,
            "starts_at": _number(schedule.starts_at),
            "ends_at": _optional_number(schedule.ends_at),
            "max_lateness": None if schedule.max_lateness is None else schedule.max_lateness // TICK,
            "max_retries": schedule.max_retries,
            "catch_up": schedule.catch_up,
            "enabled": schedule.enabled,
            "updated_at": _number(schedule.updated_at),
            "made_until": _number(schedule.made_until),
            "next_slot": _optional_number(self.next_slot),
            "slots": [[_number(slot), job] for slot, job in self.slots.items()],
        }


@record
class RemovedPlan:
    """What stays of a schedule that was removed, so that a new one of its name makes no job again."""

    made_until: datetime
    slots: list[datetime]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(_moment(data["made_until"]), [_moment(slot) for slot in data["slots"]])

    def as_json(self) -> dict[str, Any]:
        """What is stored."""
        return {"made_until": _number(self.made_until), "slots": [_number(slot) for slot in self.slots]}


def times_of(schedule: Schedule) -> Times:
    """When the schedule is due."""
    return Times(schedule.cron, schedule.every, schedule.zone, schedule.starts_at, schedule.ends_at)


def new_plan(schedule: Schedule, removed: RemovedPlan | None) -> Plan:
    """The plan of a schedule that is not stored. `removed` is what was stored under its name before."""
    until = check.earlier(schedule.starts_at, TICK)
    if removed is not None:
        until = max(until, removed.made_until)
    return Plan(
        replace(schedule, made_until=until),
        times_of(schedule).first_since(until + TICK) if schedule.enabled else None,
        {} if removed is None else dict.fromkeys(removed.slots),
    )


def changed_plan(plan: Plan, schedule: Schedule, now: datetime) -> Plan:
    """The plan with another schedule. New times hold from now on, and so does one that is enabled.

    Its `slots` are still those of the plan.
    """
    old, until = plan.schedule, plan.schedule.made_until
    if not schedule.enabled:
        return Plan(replace(schedule, made_until=until), None, plan.slots)
    if old.enabled and times_of(old) == times_of(schedule):
        return Plan(replace(schedule, made_until=until), plan.next_slot, plan.slots)
    until = max(until, check.earlier(now, TICK))
    return Plan(replace(schedule, made_until=until), times_of(schedule).first_since(until + TICK), plan.slots)


def made(plan: Plan, now: datetime, until: datetime) -> tuple[list[datetime], Plan]:
    """The slots up to `until` that become jobs, and the plan after that, but for the ids of these jobs.

    `plan.next_slot` is not None.
    """
    assert plan.next_slot is not None  # noqa: S101 - the caller has looked
    times, settled = times_of(plan.schedule), set(plan.slots)
    most = min(MOST_AT_ONCE, MOST_OPEN - len(plan.slots))
    slots, begin = _missed(plan.schedule, times, plan.next_slot, now)
    slots = [slot for slot in slots if slot not in settled]
    next_slot = None
    for slot in times.since(begin):
        if slot > until or len(slots) >= most:
            next_slot = slot
            break
        if slot not in settled:
            slots.append(slot)
    passed = check.earlier(now if next_slot is None else min(now, next_slot), TICK)
    schedule = replace(plan.schedule, made_until=max(plan.schedule.made_until, passed))
    return slots, Plan(schedule, next_slot, plan.slots)


def _missed(
    schedule: Schedule, times: Times, first: datetime, now: datetime
) -> tuple[list[datetime], datetime]:
    """The last slot that was missed, if it alone becomes a job, and from when on all slots do."""
    if first >= now:
        return [], first
    earliest = first
    if schedule.max_lateness is not None:
        earliest = max(first, check.earlier(now, schedule.max_lateness))
    if schedule.catch_up == "all":
        return [], earliest
    last = times.last_before(now) if schedule.catch_up == "last" else None
    return ([] if last is None or last < earliest else [last]), now


def _moment(number: int) -> datetime:
    return _EPOCH + number * TICK


def _optional_moment(number: int | None) -> datetime | None:
    return None if number is None else _moment(number)


def _number(moment: datetime) -> int:
    return (moment - _EPOCH) // TICK


def _optional_number(moment: datetime | None) -> int | None:
    return None if moment is None else _number(moment)
