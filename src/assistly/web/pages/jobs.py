"""Jobs: searching them, the story of one, and changing one or many."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from assistly.operations import job_changes
from assistly.operations.applying import ChangePlan, apply_all, change_job, plan
from assistly.storage.errors import InvalidValue
from assistly.storage.records import JobStatus
from assistly.views.job_filter import KINDS, JobFilter
from assistly.views.jobs import story
from assistly.views.search import newest
from assistly.views.text import jobs_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response

    from assistly.operations.job_changes import JobChange
    from assistly.storage import Job

    from ..page import WebPage

STATUSES = tuple(str(status) for status in JobStatus)
VERBS = ("cancel", "move", "replay", "resolve", "remove")
_MOST_AT_ONCE = 10_000
_MOST_CHOSEN = 1000
"""How many jobs may be selected one by one: each is read individually."""

_SECONDS = 10.0
"""How long one request searches for jobs, and then how long it changes them. It reports how many are left."""

_SHOWN = 20
_FILTER = ("platform", "text", "key", "due", "since", "kind")
_HOURS = {"1h": 1, "24h": 24, "7d": 168, "30d": 720}
ANSWERS = {"yes": True, "no": False}


def listed(page: WebPage) -> Response:
    """List the matching jobs, newest first."""
    wanted = job_filter(page.now, _from_address(page), page.queries("status"))
    before = page.query("before")
    found = newest(page.storage, wanted, before=None if before is None else whole(before))
    return page.show(
        "jobs.html",
        found=found,
        wanted=wanted,
        filter=_filter_values(_from_address(page), page.queries("status")),
        may_resolve=_may_match_dead_letters(wanted)
        and (found.before is not None or any(job.outcome_unknown for job in found.items)),
        statuses=STATUSES,
        kinds=KINDS,
        ages=_HOURS,
    )


def _may_match_dead_letters(wanted: JobFilter) -> bool:
    return (not wanted.statuses or "dead_letter" in wanted.statuses) and wanted.kind in (None, "unknown")


def show(page: WebPage) -> Response:
    """Show the story of a job."""
    id = whole(page.request.path_params["id"])
    found = story(page.storage, id, now=page.now)
    reasons = [(reason.code, reason.text(page.time, advice=False)) for reason in found.reasons]
    status = 200 if found.job is not None else 404
    return page.show(
        "job.html", status=status, id=id, job=found.job, reasons=reasons, events=found.events, story=found
    )


def change(page: WebPage) -> Response:
    """Change one job."""
    id, verb = whole(page.request.path_params["id"]), page.request.path_params["verb"]
    made = _job_change(page, verb, page.value)
    if verb == "remove":
        require_sure(page)
    seen = page.value("claim")
    change_job(page.storage, made, id, page.person, seen=None if seen is None else whole(seen))
    return page.go(page.url(f"/jobs/{id}"), f"Job {id} is {made.participle}.")


def ask(page: WebPage) -> Response:
    """Show what a change of many jobs would do, before making it."""
    verb = page.query("verb") or ""
    made = _job_change(page, verb, page.query)
    filter = _filter_values(_from_address(page), page.queries("status"))
    ids = [whole(text) for text in page.queries("id")]
    found = _planned(page, made, job_filter(page.now, _from_address(page), page.queries("status")), ids)
    kinds = Counter((str(job.status), job.platform) for job in found.jobs)
    sample = [page.storage.queue.get(job.id) for job in found.jobs[:_SHOWN]]
    return page.show(
        "bulk.html",
        verb=verb,
        change=made,
        plan=found,
        why_none=None if found.jobs else _why_none(made, found.left_out),
        kinds=[f"{jobs_text(count, status)} on {name}" for (status, name), count in sorted(kinds.items())],
        sample=[job for job in sample if job is not None],
        question=_question(page, found),
        filter=filter,
        ids=ids,
        options=_options(page.query),
    )


def change_many(page: WebPage) -> Response:
    """Change the jobs that `ask` showed, for a few seconds at most."""
    verb = page.required("verb", "what to do")
    made = _job_change(page, verb, page.exact)
    statuses = page.fields.get("status", [])
    wanted = job_filter(page_time(page, page.required("asked", "the question")), page.exact, statuses)
    ids = [whole(text) for text in page.fields.get("id", [])]
    if verb == "remove":
        require_sure(page)
    highest = whole(page.required("highest", "the last job"))
    newest = page_time(page, page.required("newest", "the last change"))
    found = _planned(page, made, wanted, ids)
    meant = [job for job in found.jobs if job.id <= highest]
    # Jobs that were added or began to match after the question are skipped.
    jobs = [(job.id, job) for job in meant if job.updated_at <= newest]
    result = apply_all(page.storage, made, jobs, None if ids else wanted, page.person, until=_after(_SECONDS))
    tried = {*result.done, *result.not_done}
    is_cut = not found.complete and (not found.jobs or found.jobs[-1].id < highest)
    return page.show(
        "bulk_done.html",
        verb=verb,
        change=made,
        result=result,
        changed_meanwhile=len(meant) - len(jobs),
        left=len(jobs) - len(tried),
        is_cut=is_cut,
        more=not found.complete and not is_cut,
        filter=_filter_values(page.exact, statuses),
        ids=[id for id, _ in jobs if id not in tried] if ids else [],
        options=_options(page.exact),
        note=page.exact("note"),
        question={name: page.value(name) or "" for name in ("highest", "newest", "asked", "sure")},
    )


def _question(page: WebPage, found: ChangePlan) -> dict[str, Any]:
    """The fields that identify the question: the highest id, the last change, and its time."""
    highest = max((job.id for job in found.jobs), default=0)
    newest = max((job.updated_at for job in found.jobs), default=page.now)
    return {"highest": highest, "newest": newest.isoformat(), "asked": page.now.isoformat()}


def _from_address(page: WebPage) -> Callable[[str], str | None]:
    """Reads query parameters: identifiers unchanged, others stripped."""
    return lambda name: page.exact_query(name) if name in ("platform", "key") else page.query(name)


def _why_none(change: JobChange, left_out: Counter[str]) -> str:
    """Why none of the jobs can be changed."""
    total = left_out.total()
    if not total:
        return f"There is nothing to {change.verb}."
    reasons = [(_of_status(reason, count, change), count) for reason, count in left_out.items()]
    if len(reasons) == 1:
        start = f"None of the {total:,} can be" if total > 1 else "It cannot be"
        return f"{start} {change.participle}: {reasons[0][0]}."
    listed = "; ".join(f"{count:,}: {reason}" for reason, count in reasons)
    return f"None of the {total:,} can be {change.participle}. {listed}."


def _of_status(reason: str, count: int, change: JobChange) -> str:
    """The reason, in the plural if it is a status: they are already cancelled."""
    status = reason.removeprefix("it is ")
    if status not in STATUSES:
        return reason
    words = ("a dead letter" if count == 1 else "dead letters") if status == "dead_letter" else status
    already = "already " if status == change.participle else ""
    return f"{'it is' if count == 1 else 'they are'} {already}{words}"


def _after(seconds: float) -> Callable[[], bool]:
    """Returns a function that tells whether this many seconds have passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def _planned(page: WebPage, made: JobChange, wanted: JobFilter, ids: list[int]) -> ChangePlan:
    if not ids:
        if wanted == JobFilter():
            raise InvalidValue("select at least one job, or filter by status, platform or text")
        return plan(page.storage, made, wanted, most=_MOST_AT_ONCE, until=_after(_SECONDS))
    if len(ids) > _MOST_CHOSEN:
        raise InvalidValue(
            f"at most {_MOST_CHOSEN:,} jobs can be selected one by one; got {len(ids):,}: filter instead"
        )
    meant: list[Job] = []
    left_out: Counter[str] = Counter()
    for id in dict.fromkeys(ids):
        job = page.storage.queue.get(id)
        obstacle = made.obstacle(job)
        if obstacle is None and job is not None:
            meant.append(job)
        else:
            left_out[str(obstacle)] += 1
    return ChangePlan(meant, left_out, complete=True)


def require_sure(page: WebPage) -> None:
    """Raise InvalidValue unless the confirmation box is ticked."""
    if page.value("sure") is None:
        raise InvalidValue("tick the box to confirm: a removal cannot be undone")


def _job_change(page: WebPage, verb: str, value: Callable[[str], str | None]) -> JobChange:
    """The change that a form describes."""
    match verb:
        case "cancel":
            return job_changes.cancel()
        case "remove":
            return job_changes.remove(unknown=value("unknown") is not None)
        case "replay":
            return job_changes.replay(
                unknown=value("unknown") is not None,
                missed=value("missed") is not None,
                at=_time_or_none(page, value("at")),
            )
        case "resolve":
            answer = value("posted")
            if answer not in ANSWERS:
                raise InvalidValue("look at the platform, then say whether it was posted")
            return job_changes.resolve(posted=ANSWERS[answer], remote_id=value("remote_id"))
        case "move":
            at = _time_or_none(page, value("at"))
            if at is None:
                raise InvalidValue("give the time at which it is due")
            return job_changes.move(lambda _: at)
        case _:
            raise InvalidValue(f"{verb[:40]!r} is not an action: use one of {', '.join(VERBS)}")


def _options(value: Callable[[str], str | None]) -> dict[str, Any]:
    """The fields with the options of a change, to repeat in a form."""
    found = {name: value(name) for name in ("unknown", "missed", "at", "posted")}
    return {name: text for name, text in found.items() if text is not None}


def _time_or_none(page: WebPage, text: str | None) -> datetime | None:
    return None if text is None else page_time(page, text)


def page_time(page: WebPage, text: str) -> datetime:
    """A time from a visitor: with its offset, or in the zone of the visitor."""
    try:
        parsed = datetime.fromisoformat(text)
        if parsed.tzinfo is None:
            parsed = parsed.astimezone() if page.zone is None else parsed.replace(tzinfo=page.zone)
        return parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidValue(f"{text[:40]!r} is not a time: write it as 2026-03-01T09:00") from None


def job_filter(now: datetime, value: Callable[[str], str | None], statuses: list[str]) -> JobFilter:
    """The filter that the fields describe."""
    for status in statuses:
        if status not in STATUSES:
            raise InvalidValue(f"{status[:40]!r} is not a status: use one of {', '.join(STATUSES)}")
    due, since = _hours("due", value("due")), _hours("since", value("since"))
    return JobFilter(
        tuple(dict.fromkeys(statuses)),
        value("platform"),
        None if due is None else now + due,
        None if since is None else now - since,
        key=value("key"),
        kind=_kind(value("kind")),
        text=value("text"),
    )


def _kind(text: str | None) -> str | None:
    if text is not None and text not in KINDS:
        raise InvalidValue(f"{text[:40]!r} is not a kind of dead letter: use one of {', '.join(KINDS)}")
    return text


def _hours(name: str, text: str | None) -> timedelta | None:
    if text is None:
        return None
    if text == "now":
        return timedelta(0)
    if text not in _HOURS:
        raise InvalidValue(f"{name} must be one of {', '.join(_HOURS)}")
    return timedelta(hours=_HOURS[text])


def _filter_values(value: Callable[[str], str | None], statuses: list[str]) -> dict[str, Any]:
    """The fields of the filter, to repeat in a form."""
    found: dict[str, Any] = {name: value(name) for name in _FILTER}
    return {name: text for name, text in found.items() if text is not None} | (
        {"status": statuses} if statuses else {}
    )


def whole(text: str) -> int:
    """A non-negative whole number. Raises InvalidValue."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise InvalidValue(f"{text[:40]!r} is not a number")
    return int(text)
