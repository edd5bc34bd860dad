"""`Storage`: an engine, a clock, the policies, and the nine stores that users call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from .backend import StorageBackend
from .clock import Clock, as_clock
from .errors import StorageClosed
from .pruning import Pruner, prune
from .records import PruneReport
from .retention import RetentionPolicy
from .retry import RetryPolicy
from .stores.approvals import Approvals
from .stores.context import Context, Policies
from .stores.events import Events
from .stores.idempotency import Idempotency
from .stores.lock import Locks
from .stores.metrics import MetricsStore
from .stores.nonces import Nonces
from .stores.queue import Queue
from .stores.sessions import Sessions
from .stores.snapshots import Snapshots
from .validation import flag

_LOCK_TTL = timedelta(seconds=45)


class Storage:
    """What users hold. One may be used from many threads, and is carried through a fork.

    `clock` is used wherever a call is given no `now`; without it the engine's own clock decides,
    which on Postgres is the server's. With `auto_prune` it prunes once a minute while it is in
    use, on a thread of its own. Most callers want `open_storage`, which reads the settings.
    """

    def __init__(
        self,
        backend: StorageBackend,
        *,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
        retention: RetentionPolicy | None = None,
        lock_ttl: timedelta = _LOCK_TTL,
        auto_prune: bool = True,
    ) -> None:
        policies = Policies(retry or RetryPolicy(), retention or RetentionPolicy(), lock_ttl)
        self._owns_backend = True
        self._pruner = Pruner(self._prune_aside) if auto_prune else None
        self._setup(backend, as_clock(clock), policies, self._pruner.used if self._pruner else _nothing)
        _opened.add(self)

    def _setup(
        self, backend: StorageBackend, clock: Clock | None, policies: Policies, on_use: Callable[[], None]
    ) -> None:
        context = Context(backend, clock, policies, on_use)
        self._context = context
        self.queue = Queue(context)
        self.sessions = Sessions(context)
        self.approvals = Approvals(context)
        self.idempotency = Idempotency(context)
        self.nonces = Nonces(context)
        self.metrics = MetricsStore(context)
        self.lock = Locks(context)
        self.events = Events(context)
        self.snapshots = Snapshots(context)

    @contextmanager
    def transaction(self) -> Iterator[Storage]:
        """All that happens inside is stored at the end of the block, or undone by an exception.

        Calls on this very storage from the same thread join it. Nested ones are savepoints.
        Keep it short: on SQLite and in memory it keeps all other writers waiting.
        """
        with self._context.backend.transaction() as backend, self._view(backend) as view:
            yield view

    def bind(self, connection: Any) -> Storage:
        """This storage inside the caller's own transaction, on a psycopg or sqlite3 connection.

        To commit or roll back is the caller's. Raises InvalidValue for anything that is no open
        connection of this engine.
        """
        return self._derived(self._context.backend.bind(connection))

    def prune(self, *, force: bool = False, now: datetime | None = None) -> PruneReport:
        """Delete what the retention settings no longer keep.

        At most once a minute for the whole database, whoever calls it, unless forced: the
        report's `ran` tells. A prune that fails does not use the minute up.
        """
        flag("force", force)
        at = self._context.now(now)
        return prune(self._context.backend, self._context.policies.retention, at, force=force)

    def ping(self) -> float:
        """Seconds for one trip to the engine. Raises StorageUnavailable if it does not answer."""
        start = time.perf_counter()
        self._context.backend.ping()
        return time.perf_counter() - start

    def migrate(self) -> list[str]:
        """Apply the pending migrations, also where STORAGE_AUTO_MIGRATE is false; their names."""
        return self._context.backend.migrate()

    def close(self) -> None:
        """Give every connection back. Later calls raise StorageClosed; closing twice is fine."""
        if self._context.closed:
            return
        self._context.close()
        if self._pruner is not None:
            self._pruner.close()
        if self._owns_backend:
            self._context.idle_backend.close()

    def __enter__(self) -> Self:
        if self._context.closed:
            raise StorageClosed("the storage is closed: open another one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Storage({self._context.idle_backend!r})"

    def _derived(self, backend: StorageBackend) -> Storage:
        derived = object.__new__(Storage)
        derived._owns_backend = False
        derived._pruner = None
        derived._setup(backend, self._context.clock, self._context.policies, _nothing)
        return derived

    @contextmanager
    def _view(self, backend: StorageBackend) -> Iterator[Storage]:
        view = self._derived(backend)
        try:
            yield view
        finally:
            view._context.close()

    def _prune_aside(self, pause: Callable[[], object]) -> None:
        if not self._context.closed:
            self._context.note_next_use()
            at = self._context.clock() if self._context.clock else self._context.idle_backend.now()
            prune(self._context.idle_backend, self._context.policies.retention, at, force=False, pause=pause)


def _nothing() -> None:
    pass


_opened: WeakSet[Storage] = WeakSet()


def _after_fork() -> None:
    """Threads are not inherited: the child's first use starts a pruner of its own."""
    for storage in _opened:
        storage._context.note_next_use()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
