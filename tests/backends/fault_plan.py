"""Which statement of a driver or step of an ordered map a fault hits, and what is checked after it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from assistly.storage import OutcomeUnknown, Storage, StorageUnavailable
from assistly.storage.testing.faults import When
from backends.fault_operations import OPERATIONS, READS, content, states_of

T = TypeVar("T")

# The pool of Postgres connects in threads of this name.
_CONNECTING = "assistly-connect"


class DriverFault(NamedTuple):
    """`act` is called with the driver's connection, and raises as the driver would.

    `cuts`: the connection is gone, and no new one can be opened while the fault lasts. `counts`: what is
    counted for it.
    """

    name: str
    act: Callable[[Any], object]
    when: When = "before"
    lasting: bool = False
    cuts: bool = False
    counts: str = "statement"

    def __str__(self) -> str:
        return f"{self.name} {self.when}{' for good' if self.lasting else ''}"


class Plan:
    """Counts the statements of the thread that has armed it, and of those that connect for it."""

    def __init__(self) -> None:
        self._fault: DriverFault | None = None
        self._at = 0
        self.seen = 0
        """How many statements were counted since `arm`."""
        self._thread = 0
        self._hit: DriverFault | None = None
        self.command = ""
        """The command in progress, where it is known."""

    def arm(self, fault: DriverFault, at: int) -> None:
        self._fault, self._at, self.seen, self._thread = fault, at, 0, threading.get_ident()

    def disarm(self) -> bool:
        """Whether the fault was reached."""
        self._fault = None
        return self.seen >= self._at

    def step(self, connection: Any, work: Callable[[], T]) -> T:
        """Run one statement, with the fault if it hits it."""
        self.begin_step(connection)
        result = work()
        self.end_step(connection)
        return result

    def begin_step(self, connection: Any) -> None:
        """Before a statement, for drivers that send it and receive its answers apart."""
        self._hit = self.hit("statement")
        if self._hit is not None and self._hit.when == "before":
            self._hit.act(connection)

    def end_step(self, connection: Any) -> None:
        """After the statement that `begin_step` began."""
        fault, self._hit = self._hit, None
        if fault is not None and fault.when == "after":
            fault.act(connection)

    @contextmanager
    def named(self, command: str) -> Iterator[None]:
        """While a command runs, say which."""
        self.command = command
        try:
            yield
        finally:
            self.command = ""

    @property
    def is_down(self) -> bool:
        """Whether nothing can connect."""
        fault = self._fault
        return fault is not None and fault.cuts and fault.lasting and self.seen >= self._at

    def hit(self, kind: str) -> DriverFault | None:
        """Count a statement, or whatever the fault counts; return the fault if it hits this one."""
        thread = threading.current_thread()
        if self._fault is None or self._fault.counts != kind:
            return None
        if thread.ident != self._thread and thread.name != _CONNECTING:
            return None
        self.seen += 1
        is_hit = self.seen == self._at or (self._fault.lasting and self.seen > self._at)
        return self._fault if is_hit else None


class FaultyEngine(ABC):
    """An engine whose driver follows `plan`. `storage` meets the faults, `observer` looks at what is left."""

    plan: Plan
    storage: Storage
    observer: Storage

    @abstractmethod
    def empty(self) -> None:
        """Delete all data."""

    @abstractmethod
    def check_idle(self) -> None:
        """Assert that no transaction is left open, and no lock held."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close the connections that are not in use."""

    def run(self, name: str, fault: DriverFault, at: int, *, cold: bool = False) -> bool:
        """Run an operation on fresh data with a fault at one statement; whether it was reached.

        `cold`: it has to connect first.
        """
        operation, states = OPERATIONS[name], states_of(name)
        self.empty()
        prepared = operation.prepare(self.storage)
        if cold:
            self.disconnect()
        error: Exception | None = None
        self.plan.arm(fault, at)
        try:
            operation.call(self.storage, prepared)
        except Exception as raised:  # noqa: BLE001 - it is judged below
            error = raised
        finally:
            reached = self.plan.disarm()
        try:
            self.check_idle()
            found = content(self.observer)
            if error is None:
                assert found == states.whole, "it succeeded, and not all of it is stored"
            elif isinstance(error, OutcomeUnknown):
                assert name not in READS, "a read has no outcome that could be unknown"
                assert found in (*states.partial, states.whole), "a part is stored"
            else:
                assert isinstance(error, StorageUnavailable), "an error of another kind"
                assert found in states.partial, "it failed, and something is stored"
            if isinstance(error, StorageUnavailable) and operation.repeats:
                operation.call(self.storage, prepared)
                assert content(self.observer) == states.whole, "the next call stores something else"
            else:
                assert self.storage.nonces.register("the next call"), "the next call stores nothing"
            self.check_idle()
        except BaseException as problem:
            problem.add_note(f"{name}: {fault}, statement {at}; it raised {error!r}")
            if error is not None:
                problem.__context__ = error
            raise
        return reached

    def run_all(self, name: str, fault: DriverFault, *, cold: bool = False, dense: int = 16) -> None:
        """Run an operation with a fault at its first statement, at its second, and so on, until none hits.

        After the first `dense` statements it leaves out ever more of them, since there can be thousands.
        """
        at = 1
        while self.run(name, fault, at, cold=cold):
            at = at + 1 if at < dense else at * 3 // 2
        assert at > 1 or fault.counts != "statement", f"{name} runs no statement"
