"""`Storage`: an engine, a clock, the policies, and the stores that users call."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from .bindable import Bindable
from .clock import Clock, as_clock
from .engine.protocol import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, StorageBackend
from .errors import ConfigurationError, StorageClosed
from .pruning import Pruner, prunable, prune
from .records import PoolConnections, Prunable, PruneReport
from .retention import RetentionPolicy
from .retry import RetryPolicy
from .stores.approvals import Approvals
from .stores.context import Context, Policies
from .stores.events import Events
from .stores.idempotency import Idempotency
from .stores.lock import Locks
from .stores.metrics import MetricsStore
from .stores.nonces import Nonces
from .stores.platforms import Platforms
from .stores.queue import Queue
from .stores.schedules import Schedules
from .stores.sessions import Sessions
from .stores.snapshots import Snapshots
from .transactions import Guard, Transaction, guarded, opened_by
from .validation import duration, flag, instance, shown

_LOCK_TTL = timedelta(seconds=45)

ABORT_SECONDS = 1.0
"""How long `close` waits for calls in progress on transactions, in all."""


class Storage:
    """An engine with a clock and policies. One object serves many threads, and keeps working after a fork.

    `clock` gives the time of calls without `now` (default: the engine's own clock, which on Postgres is that
    of the server). `retry` says when failed jobs are retried (default: 3 attempts, 5 minutes apart),
    `retention` what `prune` deletes (default: `RetentionPolicy()`), and `lock_ttl` is the default duration of
    `lock.acquire`. With `auto_prune`, the storage prunes once a minute while it is in use, on its own thread.
    With `worker_maintains`, a `Worker` on it calls `maintain`. Most callers want `open_storage`, which reads
    the settings.

    Raises ConfigurationError for an engine of a protocol version that this package does not support, and
    InvalidValue for other wrong arguments.
    """

    queue: Queue
    """Jobs to publish, each once, at its time."""

    sessions: Sessions
    """One JSON value for each user, with a version."""

    approvals: Approvals
    """Requests that wait for a person's decision."""

    idempotency: Idempotency
    """Idempotency keys: the command of each key runs once."""

    nonces: Nonces
    """Webhook nonces: each is accepted once."""

    metrics: MetricsStore
    """Counters, and the latency of requests."""

    lock: Locks
    """Named locks with one owner at a time."""

    events: Events
    """An append-only log."""

    snapshots: Snapshots
    """One JSON payload for each kind."""

    platforms: Platforms
    """Pauses and limits of platforms, for all workers."""

    schedules: Schedules
    """Recurring posts."""

    worker_maintains: bool = True
    """Whether a `Worker` on this storage calls `maintain` (STORAGE_VACUUM)."""

    def __init__(
        self,
        backend: StorageBackend,
        *,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
        retention: RetentionPolicy | None = None,
        lock_ttl: timedelta = _LOCK_TTL,
        auto_prune: bool = True,
        worker_maintains: bool = True,
    ) -> None:
        check_engine(backend)
        policies = Policies(
            RetryPolicy() if retry is None else instance("retry", retry, RetryPolicy),
            RetentionPolicy() if retention is None else instance("retention", retention, RetentionPolicy),
            duration("lock_ttl", lock_ttl, zero=False),
        )
        flag("auto_prune", auto_prune)
        self.worker_maintains = flag("worker_maintains", worker_maintains)
        self._pruner = Pruner(self._prune_in_background) if auto_prune else None
        on_use = self._pruner.used if self._pruner else _nothing
        self._set_up(backend, Context(backend, as_clock(clock), policies, is_root=True, on_use=on_use), None)

    def _set_up(self, backend: StorageBackend, context: Context, guard: Guard | None) -> None:
        self._backend = backend
        self._context = context
        self._guard = guard
        self.queue = Queue(context)
        self.sessions = Sessions(context)
        self.approvals = Approvals(context)
        self.idempotency = Idempotency(context)
        self.nonces = Nonces(context)
        self.metrics = MetricsStore(context)
        self.lock = Locks(context)
        self.events = Events(context)
        self.snapshots = Snapshots(context)
        self.platforms = Platforms(context)
        self.schedules = Schedules(context)

    def transaction(self) -> Transaction[Storage]:
        """Commit all calls on `tx` together at the end of the block, or roll them all back on an exception.

            with storage.transaction() as tx:
                tx.queue.schedule(…)
                tx.events.append(…)

        `tx` may be used from any thread or task, one call at a time, and the block may be left on another
        thread than it was entered on. `tx.transaction()` is a savepoint. Keep transactions short: on SQLite
        and in memory, all other writers wait. A call that waits for another transaction for more than 10
        seconds raises StorageUnavailable.

        Calls on this storage are not part of the transaction. In the thread or task that is inside the block,
        or one started there, they raise TransactionOpen; so do calls on `tx` while a nested transaction is
        open.
        """
        self._context.check()
        backend = self._backend
        return Transaction(backend, self, backend.transaction, self._view, self._guard)

    def bind(self, connection: Bindable) -> Storage:
        """Return this storage inside the caller's own transaction, which the caller commits or rolls back.

        `connection` is a connection of psycopg or sqlite3, a Session or a Connection of SQLAlchemy on one of
        these drivers, or a connection of Django (`django.db.connection`) inside `atomic()`. With SQLAlchemy,
        this begins the transaction if it has not begun.

        The bound storage belongs to the transaction, savepoint or `atomic()` block of SQLAlchemy or Django
        that was open when it was bound: when that has ended, calls raise StorageClosed. Raises InvalidValue
        unless `connection` is open and connected to the database of this storage.
        """
        guard = Guard("the bound storage")
        return self._view(self._context.backend.bind(connection), guard)

    def prune(self, *, force: bool = False, now: datetime | None = None) -> PruneReport:
        """Delete records that are past the retention policy, and report how many.

        It runs at most once a minute for the whole database, across all processes, unless `force` is True
        (default: False); the report's `ran` says whether it ran. A failed prune does not count.
        """
        flag("force", force)
        at = self._context.now(now)
        return prune(self._context.backend, self._context.policies.retention, at, force=force)

    def prunable(self, *, now: datetime | None = None) -> Prunable:
        """Count the records that `prune(force=True)` would delete at `now`, without deleting them.

        Counting stops at a limit that depends on the engine: a million of each kind on the built-in engines.
        """
        return prunable(self._context.backend, self._context.policies.retention, self._context.now(now))

    def maintain(self) -> None:
        """Do the maintenance that keeps the engine fast, if needed.

        On Postgres, it vacuums the jobs table when dead rows slow claims down more than a vacuum costs; on
        other engines it does nothing. A `Worker` calls it once a minute.
        """
        self._context.backend.maintain()

    def sizes(self) -> dict[str, int]:
        """Return the size of the data in bytes, by table or file.

        On Postgres by table, with its indexes; on SQLite, the file and its write-ahead log. The result is
        empty on other engines, unless they have the optional member `sizes`, and inside a transaction.
        """
        sizes: Callable[[], dict[str, int]] = getattr(self._context.backend, "sizes", dict)
        return sizes()

    def connections(self) -> PoolConnections | None:
        """Return how many connections of the pool are in use, open and allowed, without a call to the engine.

        Returns None inside a transaction, and on engines without a pool (the optional member `connections`).
        """
        connections: Callable[[], PoolConnections | None] = getattr(
            self._context.backend, "connections", _nothing
        )
        return connections()

    def ping(self) -> float:
        """Make one round trip to the engine and return its duration in seconds.

        Raises StorageUnavailable if the engine does not answer.
        """
        start = time.perf_counter()
        self._context.backend.ping()
        return time.perf_counter() - start

    def migrate(self) -> list[str]:
        """Apply the pending migrations, even if STORAGE_AUTO_MIGRATE is false, and return their names.

        Raises MigrationError if the schema does not match the migrations of this version.
        """
        return self._context.backend.migrate()

    def close(self) -> None:
        """Release all connections and threads. Later calls raise StorageClosed; closing twice has no effect.

        Open transactions are rolled back, and their blocks raise StorageClosed when they end.
        """
        if self._context.closed:
            return
        self._context.close()
        if self._pruner is not None:
            self._pruner.close()
        until = time.monotonic() + ABORT_SECONDS
        for transaction in opened_by(self):
            transaction.abort("the storage was closed", timeout=max(0.0, until - time.monotonic()))
        self._close_backend()

    def _close_backend(self) -> None:
        self._backend.close()

    def __enter__(self) -> Self:
        if self._context.closed:
            raise StorageClosed("the storage is closed: open a new one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Storage({self._backend!r})"

    def _view(self, backend: StorageBackend, guard: Guard, owner: object = None) -> Storage:
        context = Context(guarded(backend, guard, owner), self._context.clock, self._context.policies)
        return _StorageView(backend, context, guard)

    def _prune_in_background(self, pause: Callable[[], object]) -> None:
        if not self._context.closed:
            self._context.note_next_use()
            at = self._context.now(None)
            prune(self._backend, self._context.policies.retention, at, force=False, pause=pause)


class _StorageView(Storage):
    """The storage of a transaction or of a bound connection. Closing it leaves the backend open."""

    def __init__(self, backend: StorageBackend, context: Context, guard: Guard) -> None:
        self._pruner = None
        self._set_up(backend, context, guard)

    def _close_backend(self) -> None:
        pass


def _nothing() -> None:
    pass


_MEMBERS = (
    *("jobs", "sessions", "approvals", "idempotency", "nonces", "metrics", "lock", "events", "snapshots"),
    *("documents", "retention", "in_process", "durable", "multi_process", "binds", "writers"),
)


def check_engine(backend: StorageBackend) -> None:
    """Raise ConfigurationError for another version of the protocol, and for a missing store or trait."""
    if isinstance(backend, type) or not hasattr(backend, "protocol_version"):
        got = f"the class {backend.__name__}" if isinstance(backend, type) else shown(backend)
        raise ConfigurationError(f"a Storage takes an engine such as MemoryBackend(), not {got}")
    version = getattr(backend, "protocol_version", None)
    if type(version) is int and OLDEST_PROTOCOL_VERSION <= version <= PROTOCOL_VERSION:
        missing = [name for name in _MEMBERS if not hasattr(backend, name)]
        if missing:
            raise ConfigurationError(f"the engine {type(backend).__name__} lacks {', '.join(missing)}")
        return
    raise ConfigurationError(
        f"the engine {type(backend).__name__} was written for version {version} of the engine protocol, and "
        f"this assistly supports versions {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}: "
        "upgrade the one that is older"
    )
