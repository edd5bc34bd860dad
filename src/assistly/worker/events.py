"""The events of a worker, for its log, its counts and its hook."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from assistly.storage.errors import InvalidValue
from assistly.storage.records import Job, record
from assistly.storage.validation import wrong_type

from .storage_calls import logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .counts import Ending, JobCounts
    from .threads import MessageQueue, Runtime, Thread

MOST_WAITING = 10_000
"""How many events wait for a slow hook. Further events are dropped, and their number is logged."""


class EventKind(StrEnum):
    """The kind of a worker event."""

    CLAIMED = "claimed"
    """This worker has claimed the job."""
    PUBLISHED = "published"
    """The job is posted. `seconds` is how long the publisher took."""
    FAILED = "failed"
    """An attempt has failed, and the job will be retried at `until`."""
    UNKNOWN = "unknown"
    """The job is a dead letter, and may or may not have been published."""
    DEAD = "dead"
    """The job is a dead letter, and was not published."""
    PAUSED = "paused"
    """The platform is paused until `until` because of a rate limit. There is no job."""
    RESOLVED = "resolved"
    """A publisher's `check` has answered for a job with an unknown outcome: it is posted, or due again."""
    MISSED = "missed"
    """The job is a dead letter because a worker found it after its `max_lateness`."""
    SNOOZED = "snoozed"
    """Nothing was published, and the job is due again at `until`. This uses no attempt."""
    PUT_BACK = "put back"
    """The job was claimed, but publishing has not begun: it is due again, as before."""
    LOST = "lost"
    """The claim was lost, so the outcome of this worker is not stored. `error` describes the outcome."""
    NOT_STORED = "not stored"
    """The storage did not store the outcome of this worker. `error` describes the outcome."""


@record
class WorkerEvent:
    """An event of a worker.

    `job` is the job as stored after the event; for LOST and NOT_STORED, it is the job that the worker held.
    `error` is the reason, on one line. `until` and `seconds` are None unless the kind says otherwise.
    """

    kind: EventKind
    worker_id: str
    platform: str
    job: Job | None = None
    error: str | None = None
    until: datetime | None = None
    seconds: float | None = None


Hook = Callable[[WorkerEvent], object]

_LEVELS = {
    EventKind.CLAIMED: logging.DEBUG,
    EventKind.PUBLISHED: logging.INFO,
    EventKind.SNOOZED: logging.INFO,
    EventKind.PUT_BACK: logging.INFO,
    EventKind.RESOLVED: logging.INFO,
    EventKind.FAILED: logging.WARNING,
    EventKind.PAUSED: logging.WARNING,
}
"""The log levels of kinds; of others: ERROR. An unknown outcome whose publisher has a check: WARNING."""

EVENT_NAMES = {
    EventKind.CLAIMED: "job.claimed",
    EventKind.PUBLISHED: "job.published",
    EventKind.FAILED: "job.failed",
    EventKind.UNKNOWN: "job.outcome_unknown",
    EventKind.DEAD: "job.dead",
    EventKind.PAUSED: "platform.paused",
    EventKind.RESOLVED: "job.resolved",
    EventKind.MISSED: "job.missed",
    EventKind.SNOOZED: "job.snoozed",
    EventKind.PUT_BACK: "job.put_back",
    EventKind.LOST: "job.claim_lost",
    EventKind.NOT_STORED: "job.outcome_not_stored",
}
"""The values of the field `event` in log records. These names are stable."""

_COUNTED: dict[EventKind, Ending] = {
    EventKind.PUBLISHED: "posted",
    EventKind.FAILED: "failed",
    EventKind.UNKNOWN: "unknown",
    EventKind.DEAD: "dead",
    EventKind.SNOOZED: "snoozed",
    EventKind.PUT_BACK: "put back",
    EventKind.LOST: "lost",
    EventKind.NOT_STORED: "not stored",
}


def checked_hook(hook: object) -> Hook | None:
    """Return the hook. Raises InvalidValue if it is not callable, or is a coroutine function."""
    if hook is None:
        return None
    if not callable(hook):
        raise wrong_type("on_event", "a function", hook)
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__):
        raise InvalidValue(
            "on_event must be a plain function, not a coroutine function: pass events to your event loop, "
            "for example with loop.call_soon_threadsafe"
        )
    return hook


class Reporter:
    """Logs and counts events, and calls the hook with them on its own thread. Thread-safe.

    `checked` has the platforms whose publishers have a check, with the seconds from an unknown outcome to the
    first check.
    """

    def __init__(
        self,
        runtime: Runtime,
        counts: JobCounts,
        hook: Hook | None,
        checked: Mapping[str, float],
    ) -> None:
        self._runtime = runtime
        self._counts = counts
        self._hook = hook
        self._checked = checked
        self._events: MessageQueue[WorkerEvent | None] = runtime.queue()
        self._mutex = threading.Lock()
        self._thread: Thread | None = None
        self._waiting = 0
        self._dropped = 0

    def is_wanted(self, kind: EventKind) -> bool:
        """Whether events of this kind are logged or passed to a hook."""
        return self._hook is not None or logger.isEnabledFor(_LEVELS.get(kind, logging.ERROR))

    def count(self, kind: EventKind, platform: str, seconds: float | None) -> None:
        """Count a job of this worker with this outcome, and the seconds that its publisher took, if any."""
        ending = _COUNTED.get(kind)
        if ending is not None:
            self._counts.add(ending, platform, seconds)

    def report(self, event: WorkerEvent) -> None:
        """Log the event, and pass it to the hook."""
        level, then = _LEVELS.get(event.kind, logging.ERROR), ""
        if event.kind is EventKind.UNKNOWN and event.job is not None:
            pause = self._checked.get(event.platform)
            if pause is None:
                then = f"; {to_resolve(event.job)}"
            else:
                level, then = logging.WARNING, f"; the check of {event.platform} runs in {pause:g} s"
        if logger.isEnabledFor(level):
            logger.log(level, "%s%s", described(event), then, extra=log_fields(event))
        if self._hook is not None:
            self._hand_over(event)

    def end(self, seconds: float) -> None:
        """Wait until the hook has received all events, `seconds` at most."""
        with self._mutex:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._events.put(None)
            thread.join(timeout=seconds)

    def _hand_over(self, event: WorkerEvent) -> None:
        with self._mutex:
            if self._waiting >= MOST_WAITING:
                self._dropped += 1
                return
            self._waiting += 1
            self._events.put(event)
            if self._thread is None:
                self._thread = self._runtime.start("assistly-worker-events", self._call_hook)

    def _call_hook(self) -> None:
        assert self._hook is not None  # noqa: S101 - only then the thread is started
        while (event := self._events.get()) is not None:
            try:
                self._hook(event)
            except BaseException:  # noqa: BLE001 - a hook cannot harm the worker
                logger.exception("on_event failed for the event %r", event.kind.value)
            with self._mutex:
                self._waiting -= 1
                dropped, self._dropped = self._dropped, 0
            if dropped:
                logger.error("on_event is too slow: %d events were dropped", dropped)


def log_fields(event: WorkerEvent) -> dict[str, Any]:
    """The event as attributes of a log record, without those that are None."""
    job = event.job
    fields = {
        "event": EVENT_NAMES[event.kind],
        "worker_id": event.worker_id,
        "platform": event.platform,
        "job_id": None if job is None else job.id,
        "remote_id": None if job is None else job.remote_id,
        "error": event.error,
        "until": event.until,
        "seconds": event.seconds,
    }
    return {name: value for name, value in fields.items() if value is not None}


def described(event: WorkerEvent) -> str:
    """The event as a log line."""
    if event.job is None:
        return f"platform {event.platform} is paused for {event.seconds:.1f} s: {event.error}"
    return f"job {event.job.id} on {event.platform}{_ending(event, event.job)}"


def _ending(event: WorkerEvent, job: Job) -> str:
    match event.kind:
        case EventKind.CLAIMED:
            return " is claimed"
        case EventKind.PUBLISHED:
            took = "" if event.seconds is None else f" ({event.seconds:.3f} s)"
            return f" is posted{as_remote_id(job.remote_id)}{took}"
        case EventKind.FAILED:
            return f" failed, retry at {event.until}: {event.error}"
        case EventKind.SNOOZED:
            return f" is snoozed until {event.until}"
        case EventKind.PUT_BACK:
            return " was not published, and is due again"
        case EventKind.RESOLVED:
            if job.posted_at is None:
                return " was not published, according to its platform: it is scheduled again"
            return f" was published, according to its platform: it is posted{as_remote_id(job.remote_id)}"
        case EventKind.LOST:
            return f": its claim is lost; here it {event.error}"
        case EventKind.NOT_STORED:
            return f": its outcome is not stored; here it {event.error}"
        case _:
            return f" is a dead letter: {event.error}"


def to_resolve(job: Job) -> str:
    """What to do about an unknown outcome."""
    return f"look at {job.platform}, then `assistly jobs resolve {job.id} --posted` or `--not-posted`"


def as_remote_id(remote_id: str | None) -> str:
    """The end of a sentence about a published job."""
    return "" if remote_id is None else f" as {remote_id}"


def one_line(text: str | None) -> str:
    """The text without line breaks."""
    return " ".join((text or "").split())
