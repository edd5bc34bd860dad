"""Simulated time, webhooks, platforms and workers: the same on every run."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from assistly.storage import Failed, Job, JobStatus, Outcome, Snoozed, Storage
from assistly.worker import Permanent, Retry, Unknown

from .calendar import CalendarPost

_SEED = 20260302
_SECRET = b"the demo's webhook secret"
_ATTACK_EVERY = 20
_CALL_TAKES = timedelta(seconds=2)
_LEASE = timedelta(minutes=5)
_BATCH = 5


@dataclass
class SimulatedClock:
    """A clock that moves only when it is set."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A command, signed together with its nonce and its time."""

    post: CalendarPost
    nonce: str
    sent_at: datetime
    handled_in_ms: float
    signature: str = ""
    is_attack: bool = False

    def sign(self) -> str:
        text = f"{self.nonce}\n{self.sent_at.isoformat()}\n{self.post.fingerprint}"
        return hmac.new(_SECRET, text.encode(), hashlib.sha256).hexdigest()


def webhook_requests(
    posts: Iterable[CalendarPost], clock: SimulatedClock, pause: timedelta
) -> Iterator[WebhookRequest]:
    """Yield a request for each line of the calendar.

    Every 20th is followed by an attack: the same request again, or its signature with another nonce.
    """
    numbers = random.Random(_SEED)
    for number, post in enumerate(posts):
        clock.now += pause
        nonce, latency = f"{numbers.getrandbits(128):032x}", numbers.randrange(2_000, 40_000) / 1000
        request = WebhookRequest(post, nonce, clock(), latency)
        request = replace(request, signature=request.sign())
        yield request
        if number % _ATTACK_EVERY == 0:
            forged = nonce if number % (2 * _ATTACK_EVERY) == 0 else f"forged-{nonce}"
            yield replace(request, nonce=forged, is_attack=True)


class PlatformFault(NamedTuple):
    """An error that a platform raises for a share of the posts, `times` times or (None) until it is repaired.

    With `publishes` it publishes the post before it raises the error.
    """

    share: float
    times: int | None
    error: Callable[[], Exception]
    publishes: bool = False


_unavailable = partial(ConnectionError, "503: the platform is unavailable")
_rejected = partial(Permanent, "422: the platform does not allow this content")
FAULTS = (
    PlatformFault(0.06, 1, _unavailable),
    PlatformFault(0.03, 2, _unavailable),
    PlatformFault(0.04, 1, partial(Retry, after=timedelta(minutes=15))),
    PlatformFault(0.02, None, _unavailable),
    PlatformFault(0.01, None, _rejected),
    PlatformFault(0.005, 1, Unknown, publishes=True),
    PlatformFault(0.005, 1, Unknown),
)


def plan_faults(commands: Iterable[str]) -> dict[str, PlatformFault]:
    """Assign each fault to its share of the commands, and at least to one while there are enough commands."""
    shuffled = sorted(commands)
    random.Random(_SEED).shuffle(shuffled)
    total = len(shuffled)
    plan: dict[str, PlatformFault] = {}
    for fault in FAULTS:
        for _ in range(min(max(1, round(total * fault.share)), len(shuffled) - 1)):
            plan[shuffled.pop()] = fault
    return plan


class PublishedPost(NamedTuple):
    command: str
    platform: str
    content: str
    remote_id: str


class FlakyPlatforms:
    """Platforms with faults. They publish a post as often as it is sent, so that double posts show."""

    def __init__(self, clock: SimulatedClock, faults: Mapping[str, PlatformFault]) -> None:
        self.publications: list[PublishedPost] = []
        self.clock = clock
        self._faults = dict(faults)
        self._calls: Counter[str] = Counter()

    def publish(self, job: Job) -> str:
        """Publish a job, and return its remote id.

        Raises Retry, Permanent or Unknown, or ConnectionError if nothing was published.
        """
        self.clock.now += _CALL_TAKES
        command = job.idempotency_key or ""
        fault = self._faults.get(command)
        self._calls[command] += 1
        if fault and self._calls[command] == fault.times:
            del self._faults[command]
        if fault and not fault.publishes:
            raise fault.error()
        remote_id = f"{job.platform}-{len(self.publications) + 1:05d}"
        self.publications.append(PublishedPost(command, job.platform, job.content, remote_id))
        if fault:
            raise fault.error()
        return remote_id

    def repair(self) -> None:
        """End all faults except the rejections."""
        self._faults = {name: fault for name, fault in self._faults.items() if fault.error is _rejected}


class SimulatedWorker:
    """A worker that can be killed, in simulated time. `assistly.worker.Worker` uses threads and real time."""

    def __init__(self, name: str, storage: Storage, platforms: FlakyPlatforms) -> None:
        self.name = name
        self.claimed: list[Job] = []
        self._storage = storage
        self._platforms = platforms

    def claim(self) -> None:
        """Claim due jobs. The holder of the worker lock first reclaims the jobs of killed workers."""
        queue = self._storage.queue
        if self._storage.lock.acquire(self.name):
            for job in queue.rescue_expired():
                unknown = job.status is JobStatus.DEAD_LETTER and job.publish_started_at is not None
                self._log("claim_outcome_unknown" if unknown else "claim_rescued", job)
        self.claimed = queue.claim_due(worker_id=self.name, limit=_BATCH, lease=_LEASE)

    def publish(self) -> None:
        """Publish the claimed jobs, and settle them."""
        claimed, self.claimed = self.claimed, []
        outcomes = [outcome for job in claimed if (outcome := self._publish(job)) is not None]
        snoozed = {outcome.job.id for outcome in outcomes if isinstance(outcome, Snoozed)}
        for job in self._storage.queue.settle(outcomes).jobs:
            failed = "job_dead" if job.status is JobStatus.DEAD_LETTER else "job_failed"
            self._log("job_snoozed" if job.id in snoozed else failed, job)

    def die(self) -> None:
        """Publish the first job, and end without settling any."""
        first = self._storage.queue.begin_publish(self.claimed[0])
        self._log("worker_killed", first)
        with suppress(Retry, Permanent, Unknown, ConnectionError):
            self._platforms.publish(first)

    def _publish(self, job: Job) -> Outcome | None:
        """Publish a job; return its outcome, or None if it is already settled or the response was lost."""
        job = self._storage.queue.begin_publish(job)
        try:
            remote_id = self._platforms.publish(job)
        except Retry as limit:
            return Snoozed(job, self._platforms.clock() + timedelta(seconds=limit.after or 0))
        except (Permanent, ConnectionError) as error:
            return Failed(job, str(error), retryable=not isinstance(error, Permanent))
        except Unknown:
            self._log("answer_lost", job)
            return None
        self._storage.queue.mark_posted(job, remote_id)
        self._log("job_posted", job)
        return None

    def _log(self, event_type: str, job: Job) -> None:
        payload = {"command": job.idempotency_key, "job": job.id, "worker": self.name}
        self._storage.events.append(event_type, payload)
