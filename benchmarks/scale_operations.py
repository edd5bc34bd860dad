"""What is timed beside a long history: everything that runs often, and what an operator asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

from assistly.storage import Job, NewJob, Posted, Storage

from .scale_fill import PLATFORMS, RECORDS

PRUNED = 1_000
POSTED_AGE = timedelta(days=1)
_FAR = timedelta(days=36_500)
_SECOND = timedelta(seconds=1)
_WORKER = "scale:1"


@dataclass(slots=True)
class FilledStorage:
    """A storage that is measured, and what one operation leaves for the next."""

    storage: Storage
    finished: int
    numbers: count[int] = field(default_factory=count)
    claimed: list[Job] = field(default_factory=list)
    middle: int = 0

    def platform(self) -> str:
        return f"platform {next(self.numbers) % PLATFORMS}"


Timed = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    prepare: Callable[[FilledStorage], Timed]
    """Gets everything ready, and returns the call that is timed."""
    hot: bool = True
    repeats: int = 20

    def measure(self, filled: FilledStorage) -> float:
        """The seconds of one call."""
        call = self.prepare(filled)
        began = time.perf_counter()
        call()
        return time.perf_counter() - began


def _schedule(filled: FilledStorage) -> Timed:
    key, platform = uuid4().hex, filled.platform()
    return lambda: filled.storage.queue.schedule(platform, "Fresh bread at seven.", idempotency_key=key)


def _schedule_apart(filled: FilledStorage) -> Timed:
    platform = filled.platform()
    at = datetime.now(UTC) + _FAR + next(filled.numbers) * _SECOND
    return lambda: filled.storage.queue.schedule(platform, "Rolls.", at, min_gap=_SECOND / 2)


def _schedule_again(filled: FilledStorage) -> Timed:
    platform, key = filled.platform(), uuid4().hex
    filled.storage.queue.schedule(platform, "Once.", datetime.now(UTC) + _FAR, idempotency_key=key)
    return lambda: filled.storage.queue.schedule(platform, "Once.", idempotency_key=key)


def _claim(size: int) -> Callable[[FilledStorage], Timed]:
    def prepare(filled: FilledStorage) -> Timed:
        queue = filled.storage.queue
        queue.settle([Posted(job) for job in filled.claimed])
        queue.schedule_many([NewJob(filled.platform(), "Due.") for _ in range(size)])

        def claim() -> None:
            filled.claimed = queue.claim_due(worker_id=_WORKER, limit=size)

        return claim

    return prepare


def _settle(size: int) -> Callable[[FilledStorage], Timed]:
    claim = _claim(size)

    def prepare(filled: FilledStorage) -> Timed:
        claim(filled)()
        outcomes = [Posted(job, f"remote-{job.id}") for job in filled.claimed]
        filled.claimed = []
        return lambda: filled.storage.queue.settle(outcomes)

    return prepare


def _register(filled: FilledStorage) -> Timed:
    nonce = uuid4().hex
    return lambda: filled.storage.nonces.register(nonce)


def _run_once(filled: FilledStorage) -> Timed:
    key = uuid4().hex
    return lambda: filled.storage.idempotency.run_once(key, lambda: True)


def _append(filled: FilledStorage) -> Timed:
    return lambda: filled.storage.events.append("type 1", {"job": 1})


def _get(filled: FilledStorage) -> Timed:
    return lambda: filled.storage.queue.get(filled.middle)


def _list(
    status: str | None, *, deep: bool = False, platform: str | None = None
) -> Callable[[FilledStorage], Timed]:
    def prepare(filled: FilledStorage) -> Timed:
        after = filled.middle if deep else None
        return lambda: filled.storage.queue.list(status=status, platform=platform, after=after, limit=100)

    return prepare


def _events(*, deep: bool) -> Callable[[FilledStorage], Timed]:
    def prepare(filled: FilledStorage) -> Timed:
        after = min(filled.finished, RECORDS) // 2 if deep else 0
        return lambda: filled.storage.events.read_after(after, limit=100)

    return prepare


def _prune(filled: FilledStorage) -> Timed:
    """Makes the oldest thousand too old."""
    oldest = filled.storage.queue.list(status="posted", limit=PRUNED)[-1].posted_at
    if oldest is None:
        raise AssertionError("a posted job has no posted_at")
    now = oldest + POSTED_AGE + _SECOND / 1000

    def prune() -> None:
        report = filled.storage.prune(force=True, now=now)
        if report.posted < PRUNED:
            raise AssertionError(f"{report.posted} jobs were pruned instead of {PRUNED}")

    return prune


OPERATIONS = (
    Operation("schedule, keyed", _schedule),
    Operation("schedule, with a gap", _schedule_apart),
    Operation("schedule again (same key)", _schedule_again),
    Operation("claim 1", _claim(1)),
    Operation("claim 100", _claim(100), repeats=8),
    Operation("settle 1", _settle(1)),
    Operation("settle 100", _settle(100), repeats=8),
    Operation("register a nonce", _register),
    Operation("run_once", _run_once),
    Operation("append an event", _append),
    Operation("get a job", _get),
    Operation("next_due_at", lambda filled: filled.storage.queue.next_due_at),
    Operation("ping", lambda filled: filled.storage.ping),
    Operation("list, first page", _list(None)),
    Operation("list, deep page", _list(None, deep=True)),
    Operation("list posted, first page", _list("posted")),
    Operation("list posted, deep page", _list("posted", deep=True)),
    Operation("list scheduled", _list("scheduled")),
    Operation("list retrying (none)", _list("retrying")),
    Operation("dead letters, first page", _list("dead_letter")),
    Operation("read_after, first page", _events(deep=False)),
    Operation("read_after, deep page", _events(deep=True)),
    Operation(f"prune {PRUNED} jobs", _prune, hot=False, repeats=1),
    Operation("counts, all", lambda filled: filled.storage.queue.counts, hot=False, repeats=1),
)
