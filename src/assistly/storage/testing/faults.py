"""Faults for tests: an engine whose Nth call fails, loses its reply, is slow, or ends the process.

    backend = FaultyBackend(MemoryBackend())
    storage = Storage(backend, auto_prune=False)
    storage.queue.schedule("blog", "hello")
    backend.inject(Fault(lose_reply(), when="after", method="jobs.settle"))
    bot.publish_due_posts(storage)      # is its job settled twice, or never?
    assert backend.injected == ["jobs.settle"]

To meet every place where a fault can hit, repeat a scenario with `at=1`, `at=2` and so on, until
`backend.injected` stays empty. `docs/testing.md` has such a loop.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, Literal, TypeVar

from ..engine.moving import MovingBackend, moving
from ..engine.protocol import JobStore, StorageBackend
from ..engine.record_stores import (
    ApprovalStore,
    DocumentStore,
    EventStore,
    IdempotencyStore,
    LockStore,
    MetricStore,
    NonceStore,
    RetentionStore,
    SessionStore,
    SnapshotStore,
)
from ..engine.transfer import Row
from ..errors import InvalidValue, OutcomeUnknown, StorageError, StorageUnavailable

T = TypeVar("T")

When = Literal["before", "after"]

_STORES: dict[str, type] = {
    "jobs": JobStore,
    "sessions": SessionStore,
    "approvals": ApprovalStore,
    "idempotency": IdempotencyStore,
    "nonces": NonceStore,
    "metrics": MetricStore,
    "lock": LockStore,
    "events": EventStore,
    "snapshots": SnapshotStore,
    "documents": DocumentStore,
    "retention": RetentionStore,
}

CALLS = (
    *(
        f"{store}.{name}"
        for store, kind in _STORES.items()
        for name in vars(kind)
        if not name.startswith("_")
    ),
    *("jobs.depths", "jobs.timeline"),
    *("transaction", "commit", "bind", "now", "ping", "migrate", "maintain", "sizes"),
)
"""The names of the calls of an engine: `jobs.insert`, and so on.

`transaction` begins one, or a savepoint inside one; `commit` ends the outermost one. Rolling back and
`close` are no calls: no fault hits them.
"""

_READING = {
    *("get", "list", "read_after", "seen", "read", "current", "in_window", "by_key", "counts", "waiting"),
    *("depths", "timeline"),
    *("next_due_at", "late", "expired", "wait", "lock_platforms", "prepare_gap_checks", "newest_beyond"),
    *("count_prunable", "row", "transaction", "bind", "now", "ping", "maintain", "sizes"),
}


@dataclass(frozen=True, slots=True)
class EngineCall:
    """A call that a fault hits. `number` is its place among the calls that the fault counts, from 1."""

    name: str
    number: int
    when: When
    in_transaction: bool

    @property
    def writes(self) -> bool:
        """Whether the call stores something when it returns: neither a read, nor part of a transaction."""
        return not self.in_transaction and self.name.rpartition(".")[2] not in _READING

    def __str__(self) -> str:
        return f"{self.when} call {self.number} ({self.name})"


Action = Callable[[EngineCall], object]
"""What a fault does. What it raises is raised by the call; what it returns is ignored."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`action` happens before or after the call number `at`, counted from 1 (default: the first one).

    `method` counts calls of one name of `CALLS` only, such as `jobs.settle` (default: all calls). A `lasting`
    fault also hits all later ones. Raises InvalidValue for wrong arguments.
    """

    action: Action
    at: int = 1
    when: When = "before"
    method: str | None = None
    lasting: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.at, int) or isinstance(self.at, bool) or self.at < 1:
            raise InvalidValue(f"at must be a whole number from 1, not {self.at!r}")
        if self.when not in ("before", "after"):
            raise InvalidValue(f"when must be 'before' or 'after', not {self.when!r}")
        if self.method is not None and self.method not in CALLS:
            raise InvalidValue(f"method must be one of {', '.join(CALLS)}, not {self.method!r}")


def fail_with(kind: type[StorageError] = StorageUnavailable) -> Action:
    """Raise an error of this class. By default StorageUnavailable: the engine cannot be reached."""

    def act(call: EngineCall) -> None:
        raise kind(f"injected fault {call}")

    return act


def lose_reply() -> Action:
    """Break the connection: with `when="before"` the request is lost, with `when="after"` the reply.

    A call that writes raises OutcomeUnknown, since its caller cannot tell the two apart. A call that reads,
    or is part of a transaction, raises StorageUnavailable.
    """

    def act(call: EngineCall) -> None:
        raise (OutcomeUnknown if call.writes else StorageUnavailable)(
            f"injected loss of the connection {call}"
        )

    return act


def delay(seconds: float, sleep: Callable[[float], object] = time.sleep) -> Action:
    """Make the call slow. `sleep` is called with the seconds; give it a function that moves a fake clock."""
    return lambda _: sleep(seconds)


def die() -> Action:
    """End the process at once, as `kill -9` does: no `finally`, no handler and no other thread runs."""

    def act(_: EngineCall) -> None:
        if hasattr(signal, "SIGKILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        # On Windows, and for the first process of a container, which its own SIGKILL does not reach.
        os._exit(137)

    return act


class _Scope:
    """An open transaction. It is broken once a fault has raised inside it."""

    is_broken = False

    def check(self) -> None:
        if self.is_broken:
            raise StorageUnavailable("the transaction has ended with an injected fault: begin another one")


class _Injector:
    """Counts the calls, and decides which faults hit them."""

    def __init__(self) -> None:
        self.set(())

    def set(self, faults: Iterable[Fault]) -> None:
        """Replace all faults, and count anew."""
        # Counters of itertools, since threads share them: `next` is one step.
        self._faults = [(fault, count(1)) for fault in faults]
        self.calls: list[str] = []
        self.injected: list[str] = []

    def count(self, name: str, scope: _Scope | None) -> _Hits:
        """Count a call."""
        if scope is not None:
            scope.check()
        self.calls.append(name)
        numbered = [(fault, next(numbers)) for fault, numbers in self._faults if fault.method in (None, name)]
        hits = [
            (fault, number)
            for fault, number in numbered
            if number == fault.at or (fault.lasting and number > fault.at)
        ]
        return _Hits(name, scope, hits, self.injected)


class _Hits:
    """The faults that hit one call."""

    def __init__(
        self, name: str, scope: _Scope | None, faults: list[tuple[Fault, int]], injected: list[str]
    ) -> None:
        self._name = name
        self._scope = scope
        self._faults = faults
        self._injected = injected

    def act(self, when: When) -> None:
        for fault, number in self._faults:
            if fault.when == when:
                self._injected.append(self._name)
                try:
                    fault.action(EngineCall(self._name, number, when, self._scope is not None))
                except BaseException:
                    if self._scope is not None:
                        self._scope.is_broken = True
                    raise


class _FaultyStore:
    """A store with faults. Each method is wrapped on its first use."""

    def __init__(self, name: str, store: object, run: Callable[[str, Callable[[], Any]], Any]) -> None:
        self._name = name
        self._store = store
        self._run = run

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        full_name = f"{self._name}.{name}"
        if full_name not in CALLS:
            return method
        run = self._run

        def call(*args: Any, **kwargs: Any) -> Any:
            return run(full_name, lambda: method(*args, **kwargs))

        self.__dict__[name] = call
        return call

    def __repr__(self) -> str:
        return repr(self._store)


class _View:
    """An engine, a transaction or a bound connection, with faults. It has the members of `StorageBackend`."""

    def __init__(self, backend: StorageBackend, injector: _Injector, scope: _Scope | None) -> None:
        self._backend = backend
        self._injector = injector
        self._scope = scope

        def store(name: str) -> Any:
            return _FaultyStore(name, getattr(backend, name), self._run)

        self.jobs: JobStore = store("jobs")
        self.sessions: SessionStore = store("sessions")
        self.approvals: ApprovalStore = store("approvals")
        self.idempotency: IdempotencyStore = store("idempotency")
        self.nonces: NonceStore = store("nonces")
        self.metrics: MetricStore = store("metrics")
        self.lock: LockStore = store("lock")
        self.events: EventStore = store("events")
        self.snapshots: SnapshotStore = store("snapshots")
        self.documents: DocumentStore = store("documents")
        self.retention: RetentionStore = store("retention")

    @property
    def protocol_version(self) -> int:
        return self._backend.protocol_version

    @property
    def in_process(self) -> bool:
        return self._backend.in_process

    @property
    def durable(self) -> bool:
        return self._backend.durable

    @property
    def multi_process(self) -> bool:
        return self._backend.multi_process

    @property
    def binds(self) -> bool:
        return self._backend.binds

    @property
    def writers(self) -> int:
        return self._backend.writers

    def now(self) -> datetime:
        return self._run("now", self._backend.now)

    def ping(self) -> None:
        self._run("ping", self._backend.ping)

    def migrate(self) -> list[str]:
        return self._run("migrate", self._backend.migrate)

    def maintain(self) -> None:
        self._run("maintain", self._backend.maintain)

    def sizes(self) -> dict[str, int]:
        sizes: Callable[[], dict[str, int]] = getattr(self._backend, "sizes", dict)
        return self._run("sizes", sizes)

    @contextmanager
    def transaction(self) -> Iterator[StorageBackend]:
        begin = self._injector.count("transaction", self._scope)
        begin.act("before")
        scope = self._scope or _Scope()
        commit: _Hits | None = None
        with self._backend.transaction() as backend:
            begin.act("after")
            yield _View(backend, self._injector, scope)
            scope.check()
            if self._scope is None:
                commit = self._injector.count("commit", None)
                commit.act("before")
        if commit is not None:
            commit.act("after")

    def bind(self, connection: Any) -> StorageBackend:
        bound = self._run("bind", lambda: self._backend.bind(connection))
        return _View(bound, self._injector, None)

    @contextmanager
    def snapshot(self, *, hold_writers: bool = False) -> Iterator[MovingBackend]:
        begin = self._injector.count("snapshot", self._scope)
        begin.act("before")
        scope = self._scope or _Scope()
        with moving(self._backend).snapshot(hold_writers=hold_writers) as backend:
            begin.act("after")
            yield _View(backend, self._injector, scope)
            scope.check()

    def read_rows(self, kind: str, *, after: Row | None, limit: int) -> Sequence[Row]:
        return self._run("read_rows", lambda: moving(self._backend).read_rows(kind, after=after, limit=limit))

    def write_rows(self, kind: str, rows: Sequence[Row], *, after: Row | None, through: Row | None) -> None:
        backend = moving(self._backend)
        self._run("write_rows", lambda: backend.write_rows(kind, rows, after=after, through=through))

    def close(self) -> None:
        self._backend.close()

    def _run(self, name: str, work: Callable[[], T]) -> T:
        hits = self._injector.count(name, self._scope)
        hits.act("before")
        result = work()
        hits.act("after")
        return result

    def __repr__(self) -> str:
        return f"FaultyBackend({self._backend!r})"


class FaultyBackend(_View):
    """An engine, of this package or of yours, with faults. Without faults it behaves as the engine does.

    Calls inside transactions and on bound connections count like all others. An error that a fault raises
    inside a transaction ends it, as a broken connection would: later calls raise StorageUnavailable, and
    nothing of it is stored. Threads share the counters; a forked child has its own.
    """

    def __init__(self, backend: StorageBackend, faults: Iterable[Fault] = ()) -> None:
        super().__init__(backend, _Injector(), None)
        self.inject(*faults)

    def inject(self, *faults: Fault) -> None:
        """Replace all faults, and begin to count anew. Without arguments, no fault is left."""
        self._injector.set(faults)

    @property
    def calls(self) -> list[str]:
        """The names of the calls since the last `inject`, in order."""
        return [*self._injector.calls]

    @property
    def injected(self) -> list[str]:
        """The names of the calls that a fault has hit since the last `inject`, in order."""
        return [*self._injector.injected]
