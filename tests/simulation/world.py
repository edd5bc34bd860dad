"""One run: an engine, its clock, the processes that use it, and what goes wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, cast

from assistly.storage import RetentionPolicy, RetryPolicy, Storage

from .backend import Fault, SimulatedBackend, Violation, WriteLock
from .clients import Promises
from .history import History, shown
from .reference import Reference, Tables
from .rules import LATEST_REPLY, Rules
from .scheduler import TICK, Killed, Process, Scheduler
from .workers import WorkerProcess

if TYPE_CHECKING:
    from assistly.storage import StorageBackend

_CRITICAL = ("begin_publish", "begin_publish_many", "settle", "complete")
_MORE_FAULTS = 5
"""Calls on which most depends go wrong more often."""

START = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Profile:
    """What a run is like."""

    switching: float
    faults: float
    """The share of calls that go wrong."""
    delays: float
    """The share of replies that are late."""
    slow: float
    """The share of publishers that take longer than a lease."""
    jumps: bool
    """Whether the clock jumps, forward and back."""
    kills: bool
    stops: bool
    batches: int | None
    """`writers` of the engine; None: as it says."""
    lease: timedelta
    poll: float
    narrow: int
    """How many jobs of the platform with a limit may be published at once."""
    max_retries: int
    retry_delay: timedelta
    retention: RetentionPolicy
    seconds: float
    """How long faults last."""


def draw_profile(random: Random, engine: str) -> Profile:
    """Choose what a run is like."""
    return Profile(
        switching=random.choice((0.1, 0.3, 0.7)),
        faults=random.choice((0.0, 0.0, 0.03, 0.08)),
        delays=random.choice((0.0, 0.0, 0.05, 0.2)),
        slow=random.choice((0.1, 0.3, 0.7)),
        jumps=random.random() < 0.35,
        kills=random.random() < 0.6,
        stops=random.random() < 0.5,
        batches=random.choice((None, 1, 1, 2)) if engine == "memory" else None,
        lease=timedelta(seconds=random.choice((2, 4, 8))),
        poll=random.choice((2.0, 5.0)),
        narrow=random.choice((1, 2)),
        max_retries=random.choice((1, 2, 3)),
        retry_delay=timedelta(seconds=random.choice((0, 1, 4))),
        retention=RetentionPolicy(
            approvals_age=timedelta(days=30),
            approvals_cap=random.choice((4, 5000)),
            idempotency_cap=random.choice((3, 10_000)),
            nonces_age=random.choice((timedelta(seconds=20), timedelta(days=1))),
            posted_age=random.choice((None, None, timedelta(seconds=15))),
        ),
        seconds=random.choice((3.0, 6.0, 12.0)),
    )


class Faults:
    """Decides which calls go wrong."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.on = True

    def draw(self, backend: SimulatedBackend, kind: str, name: str, writes: bool) -> Fault | None:
        """What goes wrong with this call, if anything."""
        world = self._world
        scheduler = world.scheduler
        rate = world.profile.faults * (_MORE_FAULTS if name in _CRITICAL else 1)
        if not rate or not self.on or scheduler.atomic or world.random.random() >= rate:
            return None
        thread = scheduler.current
        if scheduler.now < thread.quiet_until:
            return None
        if thread.name == "assistly-worker-heartbeat":
            # A heartbeat survives a fault now and then, not one each time.
            thread.quiet_until = scheduler.now + world.profile.lease.total_seconds()
        if not writes or backend.is_transaction:
            return Fault.FAILS
        fault: Fault = world.random.choice((*Fault, Fault.LOSES_REPLY))
        return fault

    def delay(self) -> None:
        """Let the reply be late, perhaps."""
        world = self._world
        if not world.profile.delays or not self.on or world.scheduler.atomic or world.write_lock.is_held:
            return
        if world.random.random() < world.profile.delays:
            longest = min(LATEST_REPLY, world.profile.lease.total_seconds() / 20)
            world.scheduler.sleep(world.random.random() * longest)


class _Strict:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, Killed):
            self._scheduler.fail(error)


class World:
    """Everything in one run. `inner` is the engine under test, which is opened later."""

    def __init__(self, seed: int, engine: str) -> None:
        self.seed = seed
        self.random = Random(f"{engine} {seed}")
        self.profile = draw_profile(self.random, engine)
        self.scheduler = Scheduler(self.random, self.profile.switching)
        self.engine = engine
        self.inner: Any = None
        self.simulates_waits = engine != "postgres"
        self.transactions_are_turns = engine == "postgres"
        """There a second writer would wait in real time, so a transaction is one turn."""
        self._strict = _Strict(self.scheduler)
        self.history = History()
        self.reference = Reference()
        self.tables = Tables()
        self.write_lock = WriteLock(self)
        self.rules = Rules(self)
        self.promises = Promises()
        self._numbers = 0
        self._calls_to_strike = 0
        self.faults = Faults(self)
        self.workers: list[WorkerProcess] = []
        self.chaos = True
        self.offset = timedelta(0)
        self.largest_offset = timedelta(0)
        self.lookers: dict[str, int] = {}

    def clock(self) -> datetime:
        """The storage's clock."""
        now = START + timedelta(seconds=self.scheduler.now) + self.offset
        self.scheduler.current.reads.append(now)
        return now

    def today(self) -> datetime:
        """What the clock shows, without counting as a reading."""
        return START + timedelta(seconds=self.scheduler.now) + self.offset

    def jump(self, by: timedelta) -> None:
        """Set the clock forward or back."""
        self.offset += by
        self.largest_offset = max(self.offset, self.largest_offset)
        self.note(f"the clock jumps by {by}")

    def open(self, process: Process, *, batches: int | None = None) -> Storage:
        """A storage for a process. `batches`: as `writers` of an engine; default: what the run says."""
        profile = self.profile
        most = profile.batches if batches is None else batches
        backend = SimulatedBackend(self, process, self.inner, most)
        return Storage(
            cast("StorageBackend", backend),
            clock=self.clock,
            retry=RetryPolicy(profile.max_retries, profile.retry_delay),
            retention=profile.retention,
            auto_prune=False,
        )

    def meet(self, ticks: int) -> None:
        """Wait for one of the moments at which threads meet."""
        now = self.scheduler.now
        self.scheduler.sleep(TICK * (math.floor(now / TICK) + ticks) - now)

    def strike_after(self, calls: int, seconds: float) -> None:
        """For the driver: wait until so many calls were made, or so many seconds have passed."""
        self._calls_to_strike = calls
        self.scheduler.sleep(seconds)
        self._calls_to_strike = 0

    def count_call(self) -> None:
        """A call begins or ends."""
        if self._calls_to_strike:
            self._calls_to_strike -= 1
            if not self._calls_to_strike and not self.scheduler.atomic:
                self.scheduler.wake(self.scheduler.driver)
                self.scheduler.turn_to(self.scheduler.driver)
                self.scheduler.check()

    def note(self, text: str) -> None:
        """Write a line into the history."""
        self.history.note(self.scheduler, text)

    def next_number(self) -> int:
        """A number that no other call returns."""
        self._numbers += 1
        return self._numbers

    def worker_of(self, process: Process) -> WorkerProcess | None:
        """The worker in a process, if it has one."""
        return process if isinstance(process, WorkerProcess) else None

    def looked(self, backend: SimulatedBackend) -> None:
        """A process looks when the next job is due."""
        name = backend.process.name
        self.lookers[name] = self.lookers.get(name, 0) + 1

    def strict(self) -> _Strict:
        """A block whose errors end the run: the code under test must not handle them."""
        return self._strict

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Make all calls of the block in one turn, and let nothing go wrong."""
        self.write_lock.wait()
        self.scheduler.atomic += 1
        try:
            yield
        finally:
            self.scheduler.atomic -= 1

    def check_answer(
        self, kind: str, name: str, args: Any, kwargs: dict[str, Any], answer: Any, expected: Any
    ) -> None:
        """An engine has answered something else than the reference."""
        # Postgres may hold events back for a while.
        is_page = self.engine == "postgres" and (kind, name) == ("events", "read_after")
        if is_page and [*answer] == expected[: len(answer)]:
            return
        raise Violation(
            f"{kind}.{name} answered\n  {_full(answer)}\nand should have answered\n  {_full(expected)}"
        )


def _full(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 2000 else shown(value)
