"""What is around the storage, simulated and the same on every run: time, the senders, the platforms."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from .calendar import Post

SEED = 20260302
SECRET = b"the demo's webhook secret"


class SimulatedClock:
    def __init__(self, start: datetime) -> None:
        self._now = start

    def __call__(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        self._now += by

    def advance_to(self, moment: datetime) -> None:
        self._now = max(self._now, moment)


@dataclass(frozen=True, slots=True)
class Request:
    """A webhook: a command, signed together with its nonce and its time."""

    post: Post
    nonce: str
    sent_at: datetime
    signature: str
    handled_in_ms: float
    """Simulated, as the time is."""

    def is_genuine(self) -> bool:
        return hmac.compare_digest(self.signature, _signature(self.post, self.nonce, self.sent_at))


def _signature(post: Post, nonce: str, sent_at: datetime) -> str:
    text = f"{nonce}\n{sent_at.isoformat()}\n{post.fingerprint}"
    return hmac.new(SECRET, text.encode(), hashlib.sha256).hexdigest()


class Senders:
    """One request for each line of the calendar; now and then an attacker sends one of his own."""

    ATTACK_EVERY = 20

    def __init__(self, posts: Iterable[Post], clock: SimulatedClock, pause: timedelta) -> None:
        self._posts = posts
        self._clock = clock
        self._pause = pause
        self._random = random.Random(SEED)
        self.attacks = 0

    def requests(self) -> Iterator[Request]:
        for number, post in enumerate(self._posts):
            self._clock.advance(self._pause)
            request = self._signed(post)
            yield request
            if number % self.ATTACK_EVERY == 0:
                yield self._attack(request)

    def _signed(self, post: Post) -> Request:
        nonce = f"{self._random.getrandbits(128):032x}"
        sent_at = self._clock()
        latency = self._random.randrange(2_000, 40_000) / 1000
        return Request(post, nonce, sent_at, _signature(post, nonce, sent_at), latency)

    def _attack(self, seen: Request) -> Request:
        """By turns: a captured request sent again, and one with a new nonce and the old signature."""
        self.attacks += 1
        return seen if self.attacks % 2 else replace(seen, nonce=f"forged-{seen.nonce}")


class Refused(Exception):
    """The platform published nothing, and says whether to try again."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable


class RateLimited(Exception):
    """The platform published nothing, and takes no more until then."""

    def __init__(self, until: datetime) -> None:
        super().__init__(f"rate limited until {until.isoformat()}")
        self.until = until


class AnswerLost(Exception):
    """The connection broke before the answer came: it may have been published."""


class Fault(StrEnum):
    """What a platform does to the publication of one command, until it is over it."""

    HICCUP = "answers 503 once"
    TWO_HICCUPS = "answers 503 twice"
    RATE_LIMIT = "answers 429 once"
    OUTAGE = "answers 503 until someone repairs it"
    REJECTION = "answers 422 for good"
    LOST_AFTER = "publishes it, and the answer is lost"
    LOST_BEFORE = "does not publish it, and the connection breaks"


_SHARES = {
    Fault.HICCUP: 0.06,
    Fault.TWO_HICCUPS: 0.03,
    Fault.RATE_LIMIT: 0.04,
    Fault.OUTAGE: 0.02,
    Fault.REJECTION: 0.01,
    Fault.LOST_AFTER: 0.005,
    Fault.LOST_BEFORE: 0.005,
}
_TIMES = {
    Fault.HICCUP: 1,
    Fault.TWO_HICCUPS: 2,
    Fault.RATE_LIMIT: 1,
    Fault.LOST_AFTER: 1,
    Fault.LOST_BEFORE: 1,
}


def plan_faults(commands: Iterable[str]) -> dict[str, Fault]:
    """A fixed share of each fault, and one of each at the least while there are commands for it."""
    shuffled = sorted(commands)
    random.Random(SEED).shuffle(shuffled)
    plan: dict[str, Fault] = {}
    total = len(shuffled)
    for fault, share in _SHARES.items():
        for _ in range(min(max(1, round(total * share)), len(shuffled) - 1)):
            plan[shuffled.pop()] = fault
    return plan


@dataclass(frozen=True, slots=True)
class Publication:
    command: str
    platform: str
    content: str
    remote_id: str


@dataclass
class Publisher:
    """The flaky platforms, with a record of their own of what they published.

    It takes whatever it is sent, also the same post twice: that is what must not happen.
    """

    clock: SimulatedClock
    faults: Mapping[str, Fault]
    record: list[Publication] = field(default_factory=list)
    _met: dict[str, int] = field(default_factory=dict)
    _repaired: bool = False

    TAKES = timedelta(seconds=2)
    LIMIT = timedelta(minutes=15)

    def publish(self, command: str, platform: str, content: str) -> str:
        """The remote id; raises Refused, RateLimited or AnswerLost."""
        self.clock.advance(self.TAKES)
        fault = self._next_fault(command)
        if fault is Fault.RATE_LIMIT:
            raise RateLimited(self.clock() + self.LIMIT)
        if fault is Fault.REJECTION:
            raise Refused("422: the platform does not allow this content", retryable=False)
        if fault in (Fault.HICCUP, Fault.TWO_HICCUPS, Fault.OUTAGE):
            raise Refused("503: the platform is unavailable", retryable=True)
        if fault is Fault.LOST_BEFORE:
            raise AnswerLost
        remote_id = f"{platform}-{len(self.record) + 1:05d}"
        self.record.append(Publication(command, platform, content, remote_id))
        if fault is Fault.LOST_AFTER:
            raise AnswerLost
        return remote_id

    def find(self, command: str) -> Publication | None:
        """What a person sees who looks at the platform."""
        return next((entry for entry in self.record if entry.command == command), None)

    def repair(self) -> None:
        """From now on nothing is out of order, and what was rejected still is."""
        self._repaired = True

    def _next_fault(self, command: str) -> Fault | None:
        fault = self.faults.get(command)
        if fault is None or (self._repaired and fault is not Fault.REJECTION):
            return None
        self._met[command] = self._met.get(command, 0) + 1
        return fault if self._met[command] <= _TIMES.get(fault, self._met[command]) else None
