"""A backend that hands every call on to the engine, at a time that the scheduler chooses.

Before and after each call other threads may get their turn. The answer is compared with the reference, and
the call may fail before it was made, be late, or lose its reply after it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from assistly.storage.engine.protocol import PROTOCOL_VERSION
from assistly.storage.errors import OutcomeUnknown, StorageUnavailable, TransactionAborted

from .scheduler import Killed, Process, SimulatedThread

if TYPE_CHECKING:
    from .world import World

STORES = (
    *("jobs", "sessions", "approvals", "idempotency", "nonces", "metrics", "lock", "events", "snapshots"),
    *("documents", "retention"),
)
READS = {
    "jobs": {"get", "by_key", "in_window", "list", "counts", "waiting", "next_due_at", "late", "expired"}
    | {"lock_platforms", "depths", "timeline"},
    "sessions": {"get", "list"},
    "approvals": {"get", "list"},
    "idempotency": {"get", "row"},
    "nonces": {"seen"},
    "metrics": {"read"},
    "lock": {"current", "list"},
    "events": {"get", "list", "read_after"},
    "snapshots": {"get", "list"},
    "documents": {"get", "list"},
    "retention": {"newest_beyond", "count_prunable"},
}
LOCK_SECONDS = 10.0


class Fault(Enum):
    """What goes wrong with a call."""

    FAILS = "fails before it is made"
    LOSES_REPLY = "its reply is lost"
    LOST = "is lost, and so is the reply"


class Violation(AssertionError):
    """The code under test broke a rule."""


def same(answer: Any, expected: Any) -> bool:
    """Whether an engine's answer is the one that was expected."""
    if isinstance(expected, list):
        return [*answer] == expected
    if isinstance(expected, dict):
        return {key: value for key, value in answer.items() if value} == expected
    equal: bool = answer == expected and (answer is None) == (expected is None)
    return equal


class WriteLock:
    """Held by a transaction. Calls that write wait for it, since the engine would wait in real time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._owner: object = None
        self._waiting: list[SimulatedThread] = []

    @property
    def is_held(self) -> bool:
        """Whether a transaction is open."""
        return self._owner is not None

    def wait(self) -> None:
        """Wait until no transaction is open."""
        scheduler = self._world.scheduler
        until = scheduler.now + LOCK_SECONDS
        while self._owner is not None:
            if scheduler.now >= until:
                raise StorageUnavailable("another transaction did not end within 10 seconds")
            self._waiting.append(scheduler.current)
            scheduler.block(until - scheduler.now)

    def take(self, owner: object) -> None:
        """Wait, and hold it."""
        self.wait()
        self._owner = owner

    def release(self, owner: object) -> None:
        """Let the others go on."""
        if self._owner is owner:
            self._owner = None
            waiting, self._waiting = self._waiting, []
            for thread in waiting:
                self._world.scheduler.wake(thread)


class SimulatedStore:
    """One store of a backend."""

    def __init__(self, backend: SimulatedBackend, kind: str, inner: Any) -> None:
        self._backend = backend
        self._kind = kind
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if self._kind == "jobs" and name == "wait":
            call: Callable[..., Any] = self._backend.wait
        else:
            call = self._wrapped(name, inner)
        self.__dict__[name] = call
        return call

    def _wrapped(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        backend, kind = self._backend, self._kind
        world = backend.world
        writes = name not in READS[kind]
        reference = getattr(world.reference, f"{kind}_{name}")
        made = backend.made

        def call(*args: Any, **kwargs: Any) -> Any:
            scheduler = world.scheduler
            if name in ("begin_publish", "begin_publish_many"):
                ids = [args[0]] if name == "begin_publish" else [id for id, _ in args[0]]
                with world.strict():
                    for id in ids:
                        world.rules.requested(backend.process, id)
            world.count_call()
            scheduler.pause()
            fault = world.faults.draw(backend, kind, name, writes)
            if writes and not backend.is_transaction:
                world.write_lock.wait()
            if fault is Fault.FAILS or fault is Fault.LOST:
                world.history.add(scheduler, kind, name, args, kwargs, fault)
                if fault is Fault.LOST:
                    raise OutcomeUnknown("the connection broke (simulated; nothing was written)")
                raise StorageUnavailable("the engine does not answer (simulated)")
            if kind == "jobs" and name == "next_due_at":
                world.looked(backend)
            with world.strict():
                world.rules.before(backend, kind, name, args, kwargs)
                answer = inner(*args, **kwargs)
                world.history.add(scheduler, kind, name, args, kwargs, answer)
                expected = made(reference, answer, args, kwargs)
                if not same(answer, expected):
                    world.check_answer(kind, name, args, kwargs, answer, expected)
                backend.note(kind, name, args, kwargs, answer, fault is not None)
            if fault is Fault.LOSES_REPLY:
                world.history.add(scheduler, kind, name, (), {}, fault)
                raise OutcomeUnknown("the connection broke (simulated; it was written)")
            world.faults.delay()
            world.count_call()
            scheduler.pause()
            return answer

        return call


class SimulatedBackend:
    """The engine, as one process sees it."""

    protocol_version = PROTOCOL_VERSION
    is_transaction = False

    def __init__(self, world: World, process: Process, inner: Any, batches: int | None = None) -> None:
        self.world = world
        self.process = process
        self._inner = inner
        self.in_process = inner.in_process
        self.durable = inner.durable
        self.multi_process = inner.multi_process
        self.binds = inner.binds
        self.writers = inner.writers if batches is None else batches
        for kind in STORES:
            setattr(self, kind, SimulatedStore(self, kind, getattr(inner, kind)))

    def made(
        self, reference: Callable[..., Any], answer: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Make the call on the reference."""
        world = self.world
        world.reference.tables = world.tables
        return reference(answer, *args, **kwargs)

    def note(
        self, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any, lost: bool
    ) -> None:
        """The call has taken effect."""
        self.world.rules.after(self.process, kind, name, args, kwargs, answer, lost)

    def wait(self, timeout: float) -> None:
        """Let the engine wait, in simulated time."""
        world = self.world
        world.scheduler.pause()
        if world.faults.draw(self, "jobs", "wait", False) is Fault.FAILS:
            raise StorageUnavailable("the engine does not answer (simulated)")
        if world.simulates_waits:
            self._inner.jobs.wait(timeout)
        else:
            world.scheduler.sleep(min(timeout, 0.1))
        world.scheduler.pause()

    @contextmanager
    def transaction(self) -> Iterator[SimulatedTransaction]:
        world, scheduler = self.world, self.world.scheduler
        scheduler.pause()
        fault = world.faults.draw(self, "transaction", "begin", False)
        if fault is not None:
            raise StorageUnavailable("the engine does not answer (simulated)")
        owner = object()
        world.write_lock.take(owner)
        block = self._inner.transaction()
        is_open = False
        scheduler.atomic += world.transactions_are_turns
        try:
            inner = block.__enter__()
            is_open = True
            tx = SimulatedTransaction(world, self.process, inner)
            yield tx
            scheduler.pause()
            fault = world.faults.draw(self, "transaction", "commit", True)
            if fault is Fault.FAILS:
                raise TransactionAborted("a deadlock (simulated)")
            if fault is Fault.LOST:
                raise OutcomeUnknown("the connection broke (simulated; nothing was written)")
            is_open = False
            block.__exit__(None, None, None)
            world.tables = tx.tables
            world.history.add(scheduler, "transaction", "commit", (), {}, None)
            with world.strict():
                tx.flush(fault is not None)
        except BaseException as error:
            if is_open:
                world.history.add(scheduler, "transaction", "rollback", (), {}, type(error).__name__)
                try:
                    block.__exit__(type(error), error, error.__traceback__)
                except BaseException as raised:
                    if raised is not error:
                        raise
            raise
        finally:
            scheduler.atomic -= world.transactions_are_turns
            world.write_lock.release(owner)
        if fault is Fault.LOSES_REPLY:
            raise OutcomeUnknown("the connection broke (simulated; it was written)")
        scheduler.pause()

    def now(self) -> datetime:
        return self.world.clock()

    def ping(self) -> None:
        self._inner.ping()

    def migrate(self) -> list[str]:
        migrated: list[str] = self._inner.migrate()
        return migrated

    def maintain(self) -> None:
        self.world.scheduler.pause()

    def bind(self, connection: Any) -> Any:
        return self._inner.bind(connection)

    def close(self) -> None:
        """The world closes the engine, which processes share."""

    def __repr__(self) -> str:
        return f"SimulatedBackend({self.process.name})"


class SimulatedTransaction(SimulatedBackend):
    """The engine inside a transaction."""

    is_transaction = True

    def __init__(self, world: World, process: Process, inner: Any) -> None:
        super().__init__(world, process, inner)
        self.tables = world.tables.copy()
        self._effects: list[tuple[str, str, tuple[Any, ...], dict[str, Any], Any]] = []

    def made(
        self, reference: Callable[..., Any], answer: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        self.world.reference.tables = self.tables
        return reference(answer, *args, **kwargs)

    def note(
        self, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any, lost: bool
    ) -> None:
        self._effects.append((kind, name, args, kwargs, answer))

    def flush(self, lost: bool) -> None:
        """The transaction was committed."""
        for effect in self._effects:
            self.world.rules.after(self.process, *effect, lost)

    @contextmanager
    def transaction(self) -> Iterator[SimulatedTransaction]:
        tables, count = self.tables.copy(), len(self._effects)
        with self._inner.transaction():
            try:
                yield self
            except BaseException:
                self.tables = tables
                del self._effects[count:]
                raise


__all__ = ["Fault", "Killed", "SimulatedBackend", "Violation"]
