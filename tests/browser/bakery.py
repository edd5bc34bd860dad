"""A storage with something of every kind in it: a bakery that posts what it bakes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from assistly.storage import Job, Storage, StorageBackend
from assistly.storage.testing import FakeClock

DAY = datetime(2026, 3, 4, 10, 20, tzinfo=UTC)
"""A Wednesday."""

PLATFORMS = ("bluesky", "mastodon", "telegram")
WARES = ("rye bread", "rolls", "carrot cake", "pretzels", "apple pie", "baguettes", "poppy seed cake")
WORKER = "worker-1"

_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


def fill(backend: StorageBackend, now: datetime, *, posts: int = 44) -> None:
    """Fill an empty storage as if it had been used until `now`; `posts` says how much."""
    clock = FakeClock(now)
    storage = Storage(backend, clock=clock, auto_prune=False)
    _past(storage, clock, now, posts)
    clock.time = now
    _future(storage, now, posts)
    _decisions(storage, clock, now)


def _past(storage: Storage, clock: FakeClock, now: datetime, posts: int) -> None:
    """Posts of the last two days, more of them by day than by night."""
    for number in range(posts):
        due = now - number * _HOUR - number * 7 % 50 * _MINUTE
        for platform in PLATFORMS[: 1 + (number * 5 % 4) % 3 if 5 <= due.hour < 20 else 0]:
            job = _claimed(storage, clock, platform, f"Fresh from the oven: {WARES[number % 7]}.", due)
            clock.advance(timedelta(seconds=2))
            storage.queue.mark_posted(job, f"{platform}-{1000 + number}")
    failed = _claimed(storage, clock, "bluesky", "Half price after five.", now - 17 * _HOUR)
    storage.queue.mark_failed(failed, "401: the token was revoked", retryable=False)
    unknown = _claimed(storage, clock, "mastodon", "We bake on Sunday, too.", now - 3 * _HOUR)
    storage.queue.mark_unknown(unknown, "no answer within 30 seconds")
    clock.time = now - 8 * _HOUR
    storage.queue.schedule("telegram", "Breakfast until nine.", clock.time, max_lateness=_HOUR)
    clock.advance(2 * _HOUR)
    storage.queue.claim_due(worker_id=WORKER, platforms=["telegram"])
    retried = _claimed(storage, clock, "bluesky", "Soup of the day: lentils.", now - 20 * _MINUTE)
    storage.queue.mark_failed(retried, "HTTP 503", retry_at=now + 10 * _MINUTE)


def _claimed(storage: Storage, clock: FakeClock, platform: str, content: str, due: datetime) -> Job:
    """A job that is being published; the clock is set to the time at which it is due."""
    clock.time = due - _DAY
    id = storage.queue.schedule(platform, content, due, metadata={"language": "en"}).id
    clock.time = due
    [job] = storage.queue.claim_due(worker_id=WORKER, platforms=[platform])
    assert job.id == id
    return storage.queue.begin_publish(job)


def _future(storage: Storage, now: datetime, posts: int) -> None:
    """Posts of the next three weeks."""
    first = now.replace(hour=6, minute=30)
    for number in range(1, posts + posts // 2):
        due = first + number % 21 * _DAY + number * 3 % 11 * _HOUR
        if due > now and due.isoweekday() < 7:
            storage.queue.schedule(
                PLATFORMS[number % 3],
                f"Today we have {WARES[number % 7]}.",
                due,
                idempotency_key=f"plan-{number}",
            )
    storage.queue.schedule("mastodon", "The oven is hot.", now)
    storage.queue.claim_due(worker_id=WORKER, platforms=["mastodon"])
    storage.lock.acquire(WORKER)


def _decisions(storage: Storage, clock: FakeClock, now: datetime) -> None:
    clock.time = now - _DAY
    for name, text in (("draft-11", "New: spelt bread."), ("draft-12", "We are closed on Monday.")):
        storage.approvals.add(name, {"author": "kim", "content": text})
    storage.approvals.add("draft-10", {"author": "kim", "content": "Free cake for everybody!"})
    storage.approvals.decide("draft-10", "rejected")
    storage.events.append_many([("login", {"user": f"user-{number}"}) for number in range(12)])
    clock.time = now - _HOUR
    storage.platforms.pause("telegram", until=now + 2 * _HOUR, reason="flood control", by="ann")
    storage.platforms.limit("mastodon", 30, _HOUR)
    storage.schedules.put(
        "weekly-bread", "mastodon", "Rye bread again!", cron="0 9 * * MON", zone="Europe/Berlin"
    )
    storage.schedules.put("rolls", "bluesky", "Rolls are ready.", every=12 * _HOUR, max_lateness=_HOUR)
    storage.schedules.run()
    clock.time = now
