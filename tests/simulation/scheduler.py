"""Runs threads one at a time, in an order and at times that a seed decides.

Each simulated thread is a real one that waits for its turn. A turn ends where the thread waits, or at a call
of `pause`; the time advances only when every thread waits, to the first time that one of them waits for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from datetime import datetime
from heapq import heappop, heappush
from queue import Empty
from random import Random
from typing import Any, Generic, TypeVar

T = TypeVar("T")

TICK = 0.5
"""Seconds. Threads often wait for the same moments, so that they meet there."""

MOST_TURNS_AT_ONCE = 10_000
"""Turns without the time advancing, after which the simulation is taken to go round in circles."""


class Killed(BaseException):
    """Unwinds the threads of a process that was killed. They have no effect any more."""


class Stuck(Exception):
    """All threads wait for each other, or one never ends its turn or always has something to do."""


class Process:
    """A process of the simulation: a name, and whether it is alive."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True


class SimulatedThread:
    """One thread of the simulation."""

    __slots__ = (
        "baton",
        "done",
        "joiners",
        "locals",
        "name",
        "process",
        "quiet_until",
        "reads",
        "timed_out",
        "wait",
        "waiting",
    )

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.baton = threading.Lock()
        self.baton.acquire()
        self.waiting = False
        self.timed_out = False
        self.wait = 0
        """The number of the current wait; a time-out of an earlier one is void."""
        self.done = False
        self.joiners: list[SimulatedThread] = []
        self.locals: dict[int, dict[str, Any]] = {}
        self.reads: deque[datetime] = deque(maxlen=8)
        """What it has read from the storage's clock."""
        self.quiet_until = 0.0
        """No fault hits it before this time."""


class _PooledThread:
    """A real thread, which runs one simulated thread after the other."""

    def __init__(self, pool: list[_PooledThread]) -> None:
        self._pool = pool
        self.begin = threading.Lock()
        self.begin.acquire()
        self.work: Callable[[], Callable[[], None]] = lambda: lambda: None
        threading.Thread(target=self._run, name="simulated", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.begin.acquire()
            hand_over = self.work()
            self._pool.append(self)
            hand_over()


_POOL: list[_PooledThread] = []


class Scheduler:
    """Decides whose turn it is."""

    def __init__(self, random: Random, switching: float) -> None:
        self.random = random
        self.switching = switching
        """The share of pauses at which another thread may get the turn."""
        self.now = 0.0
        self.turns = 0
        self.switches = 0
        self.atomic = 0
        """Above 0, `pause` does not end the turn."""
        self.failure: BaseException | None = None
        self.driver = SimulatedThread("driver", Process("driver"))
        self.current = self.driver
        self._ready: list[SimulatedThread] = []
        self._sleeping: list[tuple[float, int, int, SimulatedThread]] = []
        self._threads: list[SimulatedThread] = []
        self._numbers = 0
        self._closing = False

    def start(self, name: str, process: Process, work: Callable[[], None]) -> SimulatedThread:
        """Start a thread. It gets its first turn later."""
        self.check()
        thread = SimulatedThread(name, process)
        self._threads.append(thread)
        self._ready.append(thread)
        pooled = _POOL.pop() if _POOL else _PooledThread(_POOL)
        pooled.work = lambda: self._life(thread, work)
        # It runs up to its first baton at once, without touching anything.
        pooled.begin.release()
        return thread

    def _life(self, thread: SimulatedThread, work: Callable[[], None]) -> Callable[[], None]:
        thread.baton.acquire()
        try:
            if thread.process.alive and not self._closing:
                Context().run(work)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - the driver reports it
            self.fail(error)
        thread.done = True
        for joiner in thread.joiners:
            self.wake(joiner)
        self._threads.remove(thread)
        return self._hand_over

    def _hand_over(self) -> None:
        following = self._next()
        self.current = following
        following.baton.release()

    def living(self) -> list[SimulatedThread]:
        """The threads that have not ended, without the driver's."""
        return [thread for thread in self._threads if thread.process.alive]

    def check(self) -> None:
        """Raise Killed in a thread of a process that was killed."""
        if not self.current.process.alive or (self._closing and self.current is not self.driver):
            raise Killed

    def fail(self, error: BaseException) -> None:
        """End the run with this error, even if the code under test handles it."""
        if self.failure is None:
            self.failure = error

    def _step(self) -> None:
        self.check()
        self.turns += 1
        if self.turns > MOST_TURNS_AT_ONCE:
            self.fail(Stuck(f"{MOST_TURNS_AT_ONCE} steps were taken at {self.now:.6f} s, and it goes on"))
        if self.failure is not None and not self._closing:
            if self.current is not self.driver:
                self._switch()
            raise self.failure

    def pause(self) -> None:
        """A point at which another thread may get its turn."""
        self._step()
        if self.atomic or not self._ready or self.random.random() >= self.switching:
            return
        current = self.current
        self._ready.append(current)
        self._switch()
        self.check()

    def block(self, seconds: float | None) -> bool:
        """Wait until `wake`, `seconds` at most (None: for ever); False if the time ran out."""
        self._step()
        current = self.current
        current.wait += 1
        current.waiting = True
        current.timed_out = False
        if seconds is not None:
            self._numbers += 1
            until = self.now + max(0.0, seconds)
            heappush(self._sleeping, (until, self._numbers, current.wait, current))
        self._switch()
        current.waiting = False
        self.check()
        return not current.timed_out

    def sleep(self, seconds: float) -> None:
        """Wait for some time."""
        self.block(seconds)

    def turn_to(self, thread: SimulatedThread) -> None:
        """Give the turn to a thread that was just woken."""
        if thread in self._ready and not self.atomic:
            self._ready.remove(thread)
            self._ready.append(self.current)
            self._give(thread)

    def wake(self, thread: SimulatedThread) -> None:
        """End the wait of a thread."""
        if thread.waiting:
            thread.waiting = False
            thread.wait += 1
            self._ready.append(thread)

    def kill(self, process: Process) -> None:
        """End the threads of a process: none of them has any effect from now on."""
        process.alive = False
        for thread in self._threads:
            if thread.process is process:
                self.wake(thread)

    def close(self) -> None:
        """End all threads but the driver's, which calls this."""
        self._closing = True
        while self._threads:
            self.turns = 0
            self.current = self._threads[-1]
            self.current.waiting = False
            self.current.baton.release()
            self.driver.baton.acquire()
        self.current = self.driver

    def _switch(self) -> None:
        current = self.current
        following = self._next()
        if following is not current:
            self._give(following)

    def _give(self, following: SimulatedThread) -> None:
        current = self.current
        self.switches += 1
        self.current = following
        following.baton.release()
        current.baton.acquire()
        if self.failure is not None and current is self.driver:
            raise self.failure

    def _next(self) -> SimulatedThread:
        ready = self._ready
        if self._closing:
            return self.driver
        if self.failure is not None:
            # The driver ends the run.
            self.driver.waiting = False
            if self.driver in ready:
                ready.remove(self.driver)
            return self.driver
        if not ready:
            self._advance()
            if self.failure is not None:
                return self.driver
        number = int(self.random.random() * len(ready)) if len(ready) > 1 else 0
        ready[number], ready[-1] = ready[-1], ready[number]
        return ready.pop()

    def _advance(self) -> None:
        """Move the time on to the first wait that ends by itself."""
        sleeping = self._sleeping
        while sleeping:
            until, _, wait, thread = heappop(sleeping)
            if not thread.waiting or thread.wait != wait:
                continue
            if until > self.now:
                self.now = until
                self.turns = 0
            self._time_out(thread)
            while sleeping and sleeping[0][0] <= self.now:
                _, _, wait, other = heappop(sleeping)
                if other.waiting and other.wait == wait:
                    self._time_out(other)
            return
        waiting = ", ".join(thread.name for thread in self._threads)
        self.fail(Stuck(f"every thread waits, and nothing will wake one: {waiting}"))
        self.driver.waiting = False

    def _time_out(self, thread: SimulatedThread) -> None:
        thread.waiting = False
        thread.timed_out = True
        self._ready.append(thread)


class SimulatedEvent:
    """As `threading.Event`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_set = False
        self._waiting: list[SimulatedThread] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._scheduler.check()
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            self._scheduler.wake(thread)

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = self._scheduler
        scheduler.check()
        if not self._is_set:
            self._waiting.append(scheduler.current)
            if not scheduler.block(timeout) and scheduler.current in self._waiting:
                self._waiting.remove(scheduler.current)
        return self._is_set


class SimulatedQueue(Generic[T]):
    """As `queue.SimpleQueue`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._items: deque[T] = deque()
        self._waiting: deque[SimulatedThread] = deque()

    def put(self, item: T) -> None:
        self._scheduler.check()
        self._items.append(item)
        if self._waiting:
            self._scheduler.wake(self._waiting.popleft())

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        scheduler = self._scheduler
        scheduler.check()
        until = None if timeout is None else scheduler.now + timeout
        while not self._items:
            left = None if until is None else until - scheduler.now
            if not block or (left is not None and left <= 0):
                raise Empty
            self._waiting.append(scheduler.current)
            if not scheduler.block(left) and scheduler.current in self._waiting:
                self._waiting.remove(scheduler.current)
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


class SimulatedLock:
    """As `threading.Lock`, or with `reentrant` as `threading.RLock`."""

    __slots__ = ("_count", "_owner", "_reentrant", "_scheduler", "_waiting")

    def __init__(self, scheduler: Scheduler, *, reentrant: bool = False) -> None:
        self._scheduler = scheduler
        self._reentrant = reentrant
        self._owner: SimulatedThread | None = None
        self._count = 0
        self._waiting: list[SimulatedThread] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        scheduler = self._scheduler
        current = scheduler.current
        if self._owner is None or (self._reentrant and self._owner is current):
            self._owner = current
            self._count += 1
            return True
        until = None if timeout < 0 else scheduler.now + timeout
        while self._owner is not None:
            left = None if until is None else until - scheduler.now
            if not blocking or (left is not None and left <= 0):
                return False
            self._waiting.append(current)
            if not scheduler.block(left) and current in self._waiting:
                self._waiting.remove(current)
        self._owner = current
        self._count = 1
        return True

    def release(self) -> None:
        if self._owner is None:
            raise RuntimeError("release of a lock that is not held")
        if self._owner is not self._scheduler.current and not self._scheduler.current.process.alive:
            return
        self._count -= 1
        if self._count == 0:
            self._owner = None
            if self._waiting:
                self._scheduler.wake(self._waiting.pop(0))

    def locked(self) -> bool:
        return self._owner is not None

    def give_up(self) -> int:
        """Release it completely; return the number to pass to `take_again`."""
        count, self._count = self._count, 1
        self.release()
        return count

    def take_again(self, count: int) -> None:
        """Acquire it as often as it was held."""
        self.acquire()
        self._count = count

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimulatedCondition:
    """As `threading.Condition`."""

    def __init__(self, scheduler: Scheduler, lock: SimulatedLock | None = None) -> None:
        self._scheduler = scheduler
        self._lock = lock or SimulatedLock(scheduler, reentrant=True)
        self._waiting: list[SimulatedThread] = []
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = self._scheduler
        current = scheduler.current
        self._waiting.append(current)
        count = self._lock.give_up()
        try:
            woken = scheduler.block(timeout)
        finally:
            if current in self._waiting:
                self._waiting.remove(current)
            self._lock.take_again(count)
        return woken

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        until = None if timeout is None else self._scheduler.now + timeout
        while not (result := predicate()):
            left = None if until is None else until - self._scheduler.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        for thread in self._waiting[:n]:
            self._scheduler.wake(thread)
        del self._waiting[:n]

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class SimulatedLocal:
    """As `threading.local`."""

    def __init__(self, scheduler: Scheduler) -> None:
        object.__setattr__(self, "_scheduler", scheduler)

    def _values(self) -> dict[str, Any]:
        scheduler: Scheduler = object.__getattribute__(self, "_scheduler")
        return scheduler.current.locals.setdefault(id(self), {})

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._values()[name] = value


class SimulatedThreading:
    """Takes the place of the module `threading` in the modules that are simulated."""

    TIMEOUT_MAX = threading.TIMEOUT_MAX
    get_ident = staticmethod(threading.get_ident)
    get_native_id = staticmethod(threading.get_native_id)
    main_thread = staticmethod(threading.main_thread)
    current_thread = staticmethod(threading.current_thread)

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def Lock(self) -> SimulatedLock:  # noqa: N802 - the name in `threading`
        return SimulatedLock(self._scheduler)

    def RLock(self) -> SimulatedLock:  # noqa: N802
        return SimulatedLock(self._scheduler, reentrant=True)

    def Condition(self, lock: SimulatedLock | None = None) -> SimulatedCondition:  # noqa: N802
        return SimulatedCondition(self._scheduler, lock)

    def Event(self) -> SimulatedEvent:  # noqa: N802
        return SimulatedEvent(self._scheduler)

    def local(self) -> SimulatedLocal:
        return SimulatedLocal(self._scheduler)

    def Thread(  # noqa: N802
        self, *, target: Callable[..., None], args: tuple[Any, ...] = (), name: str = "", daemon: bool = True
    ) -> StartableThread:
        return StartableThread(self._scheduler, name, lambda: target(*args))


class StartableThread:
    """As `threading.Thread`, for the methods that are used."""

    def __init__(self, scheduler: Scheduler, name: str, work: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self.name = name
        self._work = work
        self._thread: SimulatedThread | None = None

    def start(self) -> None:
        self._thread = self._scheduler.start(self.name, self._scheduler.current.process, self._work)

    def join(self, timeout: float | None = None) -> None:
        thread = self._thread
        if thread is not None and not thread.done:
            thread.joiners.append(self._scheduler.current)
            self._scheduler.block(timeout)

    def is_alive(self) -> bool:
        return self._thread is not None and not self._thread.done


class SimulatedTime:
    """Takes the place of the module `time` in the modules that are simulated."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def monotonic(self) -> float:
        return self._scheduler.now

    perf_counter = monotonic
    time = monotonic

    def sleep(self, seconds: float) -> None:
        self._scheduler.sleep(seconds)


class SimulatedSecrets:
    """Takes the place of `secrets` and of `os.urandom`: the same seed gives the same."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"secrets {seed}")

    def token_hex(self, count: int) -> str:
        return self._random.randbytes(count).hex()

    def urandom(self, count: int) -> bytes:
        return self._random.randbytes(count)
