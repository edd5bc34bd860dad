"""Records for the page to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from assistly.storage import Event, Job, Storage
from assistly.storage.records import Json

HOUR = timedelta(hours=1)
READ_TOKEN = "canary-readers-1"
TOKEN = "canary-writers-1"
FOREIGN = "<script>alert('canary')</script>\"'&"
"""A text that would run in a browser if it were not escaped."""


@dataclass(frozen=True)
class Filled:
    """The records of `fill`."""

    waiting: Job
    claimed: Job
    begun: Job
    posted: Job
    dead: Job
    unknown: Job
    cancelled: Job
    approval: str
    schedule: str

    @property
    def jobs(self) -> list[Job]:
        return [self.waiting, self.claimed, self.begun, self.posted, self.dead, self.unknown, self.cancelled]


def claim(storage: Storage, platform: str, content: str = "a post", **options: Json) -> Job:
    storage.queue.schedule(platform, content, metadata=options)
    (job,) = storage.queue.claim_due(worker_id="worker-1", limit=1, platforms=[platform])
    return job


def dead_letter(storage: Storage, platform: str = "dead", content: str = "a post") -> Job:
    return storage.queue.mark_failed(claim(storage, platform, content), "no such account", retryable=False)


def unknown_outcome(storage: Storage, platform: str = "unknown") -> Job:
    begun = storage.queue.begin_publish(claim(storage, platform))
    return storage.queue.mark_unknown(begun, "no answer")


def fill(storage: Storage, text: str = "a post") -> Filled:
    """Add a record of each kind, with this text wherever users write one."""
    queue = storage.queue
    posted = queue.mark_posted(queue.begin_publish(claim(storage, "posted", text)), remote_id=text)
    cancelled = queue.cancel(queue.schedule("cancelled", text).id)
    storage.platforms.pause("paused", reason=text, by=text)
    storage.platforms.limit("mastodon", 10, HOUR)
    storage.schedules.put("weekly", "mastodon", text, cron="0 9 * * MON")
    storage.approvals.add("approval-1", {"text": text, text: [1, None]})
    storage.approvals.add("approval-2", {"text": text})
    storage.approvals.decide("approval-2", "approved")
    storage.events.append("custom", {"by": text, "note": text})
    storage.metrics.increment("posts", 3)
    storage.lock.acquire(text[:20], ttl=HOUR)
    return Filled(
        queue.schedule(
            "mastodon", text, datetime.now(UTC) + HOUR, idempotency_key=text, metadata={"a": text}
        ),
        claim(storage, "claimed", text),
        queue.begin_publish(claim(storage, "begun", text)),
        posted,
        queue.mark_failed(claim(storage, "dead", text), text, retryable=False),
        unknown_outcome(storage),
        cancelled,
        "approval-1",
        "weekly",
    )


def operator_events(storage: Storage) -> list[Event]:
    """What people did, the oldest first."""
    found = [event for event in storage.events.list(limit=1000) if event.event_type.startswith("operator.")]
    return found[::-1]


def fingerprint(storage: Storage) -> tuple[Sequence[object], ...]:
    """Everything that a form could change."""
    return (
        storage.queue.list(limit=1000),
        storage.approvals.list(limit=1000),
        storage.platforms.list(),
        storage.schedules.list(),
        storage.events.list(limit=1000),
    )
