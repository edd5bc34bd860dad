"""One job: its story, what happens next, and why it was not published."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING, Any

from .text import span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from assistly.storage import Event, Job, Platform, Storage

AUDIT_PREFIX = "operator.jobs."
"""The prefix of the types of events that record what people did to jobs."""

VERBS = ("cancel", "move", "remove", "replay", "resolve", "add", "import")
"""What people do to jobs, as the events name it."""

_DEEDS = {
    "cancel": "cancelled",
    "move": "moved",
    "remove": "removed",
    "replay": "replayed",
    "resolve": "resolved",
    "add": "added",
    "import": "imported",
}

COUNT_LIMIT = 10_000
"""Counting stops here where there may be many."""

GRACE = timedelta(minutes=1)
"""A job that has been due for less time than this does not yet show that no worker runs."""

SEEN = timedelta(minutes=10)
"""A worker counts as seen on a platform if it claimed or settled a job there within this time."""

_PAGE = 1000
_TICK = timedelta(microseconds=1)
_RETRYING = 200
_NEIGHBOURS = 200
_ALL_NEIGHBOURS = 1000


class ReasonCode(StrEnum):
    """Why a job is not published, or what happened to it."""

    NOT_DUE = "not_due"
    DUE = "due"
    PAUSED = "platform_paused"
    BUDGET = "budget_used_up"
    BEHIND = "waiting_behind_others"
    RETRYING = "retrying"
    LATE = "too_late"
    NO_WORKER = "no_worker_seen"
    NOTHING = "due_now"
    CLAIMED = "claimed"
    PUBLISHING = "publishing"
    LEASE_OVER = "lease_ran_out"
    UNKNOWN = "outcome_unknown"
    MISSED = "missed"
    DEAD = "dead_letter"
    CANCELLED = "cancelled"
    POSTED = "posted"
    ABSENT = "no_such_job"


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason with its sentences, in which `{name}` stands for a value of `details`.

    `advice` says which command to run: further sentences, which may be empty.
    """

    code: ReasonCode
    template: str
    details: dict[str, Any] = field(default_factory=dict)
    advice: str = ""

    def text(self, shown: Callable[[datetime], str], *, advice: bool = True) -> str:
        """The sentences, optionally with the advice. `shown` formats a time."""
        values = {
            name: shown(value) if isinstance(value, datetime) else value
            for name, value in self.details.items()
        }
        template = f"{self.template} {self.advice}" if advice else self.template
        return " ".join(template.format(**values).split())


@dataclass(frozen=True, slots=True)
class Story:
    """What is known about a job.

    `job` is None if there is no such job. `reasons` say why it is not published, or what happened to it:
    first how long it has been due, then the most important first. `events` record what people did, oldest
    first. `events_complete` is False if the log was too long to search it all.
    """

    job: Job | None
    reasons: list[Reason]
    events: list[Event]
    events_complete: bool


def story(storage: Storage, id: int, *, now: datetime | None = None) -> Story:
    """Return the story of a job. `now` is the current time (default: that of this machine)."""
    at = now or datetime.now(UTC)
    job = storage.queue.get(id)
    events, complete = audit_events(storage, id, None if job is None else job.created_at)
    return Story(job, _reasons(storage, id, job, events, at), events, complete)


def audit_events(storage: Storage, id: int, since: datetime | None) -> tuple[list[Event], bool]:
    """Return the events of what people did to a job, oldest first, and whether they are complete.

    Searches the last 10,000 events of each kind, back to `since`.
    """
    found: list[Event] = []
    complete = True
    for verb in VERBS:
        events, all_searched = _newest(storage, f"{AUDIT_PREFIX}{verb}", since)
        found += [event for event in events if _concerns(event, id)]
        complete = complete and all_searched
    return sorted(found, key=lambda event: (event.created_at, event.id)), complete


def _newest(storage: Storage, event_type: str, since: datetime | None) -> tuple[list[Event], bool]:
    events: list[Event] = []
    while len(events) < COUNT_LIMIT:
        before = events[-1] if events else None
        page = storage.events.list(event_type=event_type, before=before, limit=_PAGE)
        events += page
        if len(page) < _PAGE or (since is not None and page[-1].created_at < since):
            return events, True
    return events, False


def listed_time(job: Job) -> datetime | None:
    """The time for lists: when it is due, its lease expires, or it was posted, dead-lettered or cancelled."""
    return {
        "processing": job.lease_until,
        "posted": job.posted_at,
        "dead_letter": job.dead_letter_at,
        "cancelled": job.updated_at,
    }.get(job.status, job.due_at)


def deed(event: Event) -> str:
    """What a person did to a job: kim cancelled it (wrong price)."""
    who, verb = _who(event), event.event_type.removeprefix(AUDIT_PREFIX)
    answer = ""
    if verb == "resolve":
        answer = " as posted" if event.payload.get("posted") else " as not posted"
    return f"{who['by']} {_DEEDS.get(verb, verb)} it{answer}{who['note']}"


def _concerns(event: Event, id: int) -> bool:
    payload = event.payload
    return isinstance(payload, dict) and payload.get("job") == id


def _reasons(storage: Storage, id: int, job: Job | None, events: list[Event], now: datetime) -> list[Reason]:
    if job is None:
        return [_absent(id, events)]
    match str(job.status):
        case "posted":
            return [_posted(job, events)]
        case "cancelled":
            return [_cancelled(job, events, now)]
        case "dead_letter":
            return [_dead(job)]
        case "processing":
            return [_held(job, now)]
    return _waiting(storage, job, now)


def _absent(id: int, events: list[Event]) -> Reason:
    removal = _last(events, "remove")
    if removal is not None:
        text = "Job {id} no longer exists: {by} removed it at {at}{note}."
        return Reason(ReasonCode.ABSENT, text, {"id": id, **_who(removal)})
    return Reason(
        ReasonCode.ABSENT,
        "There is no job {id}. It was never stored here, was removed by a program, or was posted longer ago "
        "than RETENTION_POSTED_DAYS.",
        {"id": id},
    )


def _posted(job: Job, events: list[Event]) -> Reason:
    known = "its id there is {remote_id}" if job.remote_id is not None else "its id there is not known"
    details = {"platform": job.platform, "posted_at": job.posted_at, "remote_id": job.remote_id}
    answer = _last(events, "resolve")
    if answer is None or answer.payload.get("posted") is not True:
        text = f"It was posted on {{platform}} at {{posted_at}}; {known}."
        return Reason(ReasonCode.POSTED, text, details)
    text = (
        "{by} answered at {at}{note} that it was posted on {platform}. Publishing began at {posted_at}; "
        f"{known}."
    )
    return Reason(ReasonCode.POSTED, text, details | _who(answer))


def _cancelled(job: Job, events: list[Event], now: datetime) -> Reason:
    replay = f"`assistly jobs replay {job.id}` schedules it again"
    if job.scheduled_at > now:
        again = f"{replay} for its time, {{scheduled_at}}."
    else:
        again = f"{replay}, due now, since its time, {{scheduled_at}}, has passed; --at sets another time."
    event = _last(events, "cancel")
    if event is None:
        text = "A program cancelled it at {at}."
        details: dict[str, Any] = {"at": job.updated_at}
    else:
        text = "{by} cancelled it at {at}{note}."
        details = _who(event)
    return Reason(ReasonCode.CANCELLED, text, details | {"scheduled_at": job.scheduled_at}, again)


def _dead(job: Job) -> Reason:
    details: dict[str, Any] = {
        "reason": job.dead_letter_reason or "no reason was stored",
        "since": job.dead_letter_at,
    }
    replay = f"`assistly jobs replay {job.id}` schedules it again"
    if job.outcome_unknown:
        text = (
            "Publishing began at {began}; {reason}. If its publisher has a check, a worker runs the check, "
            "and may publish the job again; otherwise a person has to resolve it. Look for the post on "
            "{platform}."
        )
        advice = (
            "If it is there, run `assistly jobs resolve {id} --posted` (with --remote-id if you know the "
            "id); if it is not, run `assistly jobs resolve {id} --not-posted`, which publishes it now."
        )
        details |= {"began": job.publish_started_at, "platform": job.platform, "id": job.id}
        return Reason(ReasonCode.UNKNOWN, text, details, advice)
    if job.missed:
        text = (
            "No worker claimed it within its maximum lateness of {allowed} after {scheduled_at}. It became a "
            "dead letter at {since}."
        )
        details |= {"allowed": span(job.max_lateness, exact=True), "scheduled_at": job.scheduled_at}
        return Reason(ReasonCode.MISSED, text, details, f"{replay}, if it still makes sense.")
    tried = "after {retries} of {max_retries} attempts"
    if job.retries < job.max_retries:
        tried += ", because retrying does not help"
    text = f"It became a dead letter at {{since}} {tried}: {{reason}}."
    details |= {"retries": job.retries, "max_retries": job.max_retries}
    return Reason(ReasonCode.DEAD, text, details, f"Fix the cause; then {replay}.")


def _held(job: Job, now: datetime) -> Reason:
    details = {
        "worker": job.worker_id,
        "lease_until": job.lease_until,
        "began": job.publish_started_at,
        "attempt": job.retries + 1,
        "max_retries": job.max_retries,
    }
    is_over = job.lease_until is not None and job.lease_until <= now
    if is_over and job.publish_started_at is not None:
        text = (
            "Worker {worker} began to publish it at {began}, and its lease expired at {lease_until}: nobody "
            "knows whether it was published. The next claim of any worker makes it a dead letter with an "
            "unknown outcome, which a person or the check of its publisher resolves."
        )
        advice = f"A person resolves it with `assistly jobs resolve {job.id}`."
        return Reason(ReasonCode.LEASE_OVER, text, details, advice)
    if is_over:
        text = (
            "Worker {worker} claimed it and did not begin to publish; its lease expired at {lease_until}. "
            "The next claim of any worker reclaims it, which counts as failed attempt {attempt} of "
            "{max_retries}. If this does not happen within seconds, no worker runs."
        )
        return Reason(ReasonCode.LEASE_OVER, text, details)
    if job.publish_started_at is not None:
        text = (
            "Worker {worker} has been publishing it since {began} (attempt {attempt} of {max_retries}), "
            "and waits for the response of the platform. Its lease runs until {lease_until}; without a "
            "response by then, the outcome is unknown."
        )
        return Reason(ReasonCode.PUBLISHING, text, details)
    text = (
        "Worker {worker} has claimed it (attempt {attempt} of {max_retries}) and has not begun to publish. "
        "Its lease runs until {lease_until}; if it does nothing until then, another worker takes over."
    )
    return Reason(ReasonCode.CLAIMED, text, details)


def _waiting(storage: Storage, job: Job, now: datetime) -> list[Reason]:
    reasons: list[Reason] = []
    platform = storage.platforms.get(job.platform, now=now)
    is_due = job.due_at <= now
    if is_due and job.max_lateness is not None and job.max_lateness < now - job.scheduled_at:
        text = (
            "It is more than {allowed} late, its maximum lateness: the next claim makes it a dead letter "
            "(missed)."
        )
        advice = f"`assistly jobs move {job.id} +1m` gives it another time."
        return [Reason(ReasonCode.LATE, text, {"allowed": span(job.max_lateness, exact=True)}, advice)]
    if is_due:
        details = {"due_at": job.due_at, "late": span(now - job.due_at)}
        reasons.append(Reason(ReasonCode.DUE, "It has been due for {late}, since {due_at}.", details))
    if job.retries:
        reasons.append(_retrying(job))
    if not is_due:
        details = {"due_at": job.due_at, "left": span(job.due_at - now)}
        reasons.append(
            Reason(ReasonCode.NOT_DUE, "It is not due yet: it is due at {due_at}, in {left}.", details)
        )
    if platform is not None and _is_paused_at(platform, max(now, job.due_at)):
        reasons.append(_paused(platform))
    elif is_due:
        reasons += _overdue(storage, job, platform, now)
    return reasons


def _retrying(job: Job) -> Reason:
    text = "Attempt {retries} of {max_retries} failed: {error}."
    details: dict[str, Any] = {
        "retries": job.retries,
        "max_retries": job.max_retries,
        "error": job.last_error or "no error was stored",
    }
    if job.attempts:
        text = "Attempt {retries} of {max_retries} failed at {failed_at}: {error}."
        details["failed_at"] = job.attempts[-1].at
    return Reason(ReasonCode.RETRYING, text, details)


def _is_paused_at(platform: Platform, at: datetime) -> bool:
    return platform.paused and (platform.paused_until is None or platform.paused_until > at)


def _paused(platform: Platform) -> Reason:
    text = "The platform {platform} is paused"
    text += " by {by}" if platform.by is not None else ""
    text += " until somebody resumes it" if platform.paused_until is None else " until {until}"
    text += ": {reason}" if platform.reason else ""
    text += "."
    details = {
        "platform": platform.name,
        "until": platform.paused_until,
        "by": platform.by,
        "reason": platform.reason,
    }
    advice = "`assistly platforms resume {platform}` ends the pause."
    return Reason(ReasonCode.PAUSED, text, details, advice)


def _overdue(storage: Storage, job: Job, platform: Platform | None, now: datetime) -> list[Reason]:
    """Why a due job on a platform that is not paused is not claimed."""
    reasons: list[Reason] = []
    details: dict[str, Any]
    limit = None if platform is None else platform.limit
    if limit is not None and storage.platforms.available(job.platform, now=now) == 0:
        details = {
            "platform": job.platform,
            "count": limit[0],
            "per": span(limit[1], exact=True),
            "left": span(_until_next_token(storage, job.platform, limit, now)),
        }
        text = (
            "The limit of {platform} is reached: all workers together may publish {count} in {per}, and the "
            "next job may start in {left}."
        )
        advice = "`assistly platforms limit {platform} COUNT --per DURATION` changes the limit."
        reasons.append(Reason(ReasonCode.BUDGET, text, details, advice))
    if now - job.due_at >= GRACE and not workers_seen(storage, {job.platform: job.id}, now=now):
        text = "No worker was seen on {platform} in the last {seen}: check that one runs for this platform."
        details = {"platform": job.platform, "seen": span(SEEN)}
        reasons.append(Reason(ReasonCode.NO_WORKER, text, details, "Start one with `assistly worker`."))
    ahead = _ahead(storage, job, now)
    if ahead.count:
        more = "" if ahead.exact else "+"
        details = {"ahead": ahead.count, "of_platform": ahead.of_platform, "platform": job.platform}
        text = (
            f"Due jobs that workers claim before it: {{ahead:,}}{more}; of these on {{platform}}: "
            f"{{of_platform:,}}{more}."
        )
        advice = "If the number does not fall, start another worker (`assistly worker`)."
        reasons.append(Reason(ReasonCode.BEHIND, text, details, advice))
    if not reasons:
        text = "Nothing delays it: the next free worker for {platform} claims it."
        reasons.append(Reason(ReasonCode.NOTHING, text, {"platform": job.platform}))
    return reasons


def _until_next_token(
    storage: Storage, platform: str, limit: tuple[int, timedelta], now: datetime
) -> timedelta:
    """The number of whole seconds until the limit allows another job."""
    count, per = limit

    def is_free(seconds: int) -> bool:
        return storage.platforms.available(platform, now=now + timedelta(seconds=seconds)) != 0

    longest = ceil(per / count / timedelta(seconds=1))
    return timedelta(seconds=bisect_left(range(longest), True, key=is_free))


@dataclass(slots=True)
class _Ahead:
    """How many jobs are claimed before another, in total and on its platform. If not `exact`, at least."""

    count: int = 0
    of_platform: int = 0
    exact: bool = True


def _ahead(storage: Storage, job: Job, now: datetime) -> _Ahead:
    """How many jobs are claimed before this job, not counting paused platforms. Examines COUNT_LIMIT jobs."""
    paused = {platform.name for platform in storage.platforms.list(now=now) if platform.paused}
    found = _Ahead()
    after: Job | None = None
    for _ in range(COUNT_LIMIT // _PAGE):
        page = storage.queue.upcoming(until=job.due_at, after=after, limit=_PAGE)
        for other in page:
            if (other.due_at, other.id) >= (job.due_at, job.id):
                return found
            if other.platform not in paused:
                found.count += 1
                found.of_platform += other.platform == job.platform
        if len(page) < _PAGE:
            return found
        after = page[-1]
    found.exact = False
    return found


def workers_seen(storage: Storage, near: Mapping[str, int], *, now: datetime) -> set[str]:
    """The platforms of `near`, which has a job of each, on which a worker was seen within SEEN.

    A worker was seen if a job of the platform was posted or became a dead letter within SEEN, if one is held
    under a current lease, or if a worker claimed or settled within SEEN one of the first 200 retrying jobs,
    or one of up to 200 with ids around that job. Other signs of workers are not stored. Examines up to 10,000
    posted jobs, as many dead letters, and 1,000 held jobs.
    """
    # The clock of a server may be ahead.
    settled = storage.queue.timeline([now - SEEN + _TICK, now + SEEN], limit=COUNT_LIMIT)
    seen = {count.platform for count in settled if count.status in ("posted", "dead_letter")} & {*near}
    if seen == {*near}:
        return seen
    held = storage.queue.list(status="processing", limit=_PAGE)
    seen |= {job.platform for job in held if job.lease_until is not None and job.lease_until > now}
    others = [*held, *storage.queue.list(status="retrying", limit=_RETRYING)]
    others += _neighbours(storage, [id for platform, id in near.items() if platform not in seen])
    seen |= {job.platform for job in others if _worked_on(job, now - SEEN)}
    return seen & {*near}


def _neighbours(storage: Storage, ids: Iterable[int]) -> Iterator[Job]:
    """The jobs with ids around each of these."""
    around = sorted(ids)
    count = min(_NEIGHBOURS, _ALL_NEIGHBOURS // len(around)) if around else 0
    last = 0
    for id in around:
        start = max(last, id - 1 - count // 2)
        limit = id - 1 + count - count // 2 - start
        if limit > 0:
            page = storage.queue.list(after=start, limit=limit)
            yield from page
            last = page[-1].id if page else last


def _worked_on(job: Job, since: datetime) -> bool:
    """Whether a worker claimed or settled the job after `since`. People's changes set only `updated_at`."""
    if job.status == "processing" or job.next_retry_at is not None:
        # Every change by a person ends both.
        return job.updated_at > since
    last_failure = job.attempts[-1].at if job.attempts else None
    return any(at is not None and at > since for at in (job.posted_at, last_failure))


def _last(events: list[Event], verb: str) -> Event | None:
    return next((event for event in reversed(events) if event.event_type == AUDIT_PREFIX + verb), None)


def _who(event: Event) -> dict[str, Any]:
    note = event.payload.get("note")
    return {
        "by": event.payload.get("by", "somebody"),
        "at": event.created_at,
        "note": f" ({note})" if note else "",
    }
