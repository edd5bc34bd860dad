"""`KeyValueBackend`: an engine on an ordered map with transactions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from ... import forks
from ...clock import machine_clock
from ...errors import MigrationError, OutcomeUnknown, StorageClosed, StorageError, StorageUnavailable
from ..transfer import Row
from . import keys
from .coordination import KeyValueIdempotency, KeyValueLocks, KeyValueNonces
from .documents import KeyValueApprovals, KeyValueDocuments, KeyValueSessions, KeyValueSnapshots
from .events import KeyValueEvents
from .jobs import KeyValueJobs
from .longkeys import LongKeys
from .metrics import KeyValueMetrics
from .ordered import OrderedMap, OrderedStore
from .retention import KeyValueRetention
from .rows import JsonRows, ObjectRows
from .scopes import Block, MapScope, PlainBlock, ReadBlock, StepBlock, UndoMap, WriteBlock
from .transfer import KeyValueTransfer
from .waking import Changes

LOCK_SECONDS = 10.0
"""How long a write waits for another transaction to end."""

FORMAT = 1
"""The version of the format of keys and rows. Data in another format is refused."""

_FIRST = "001_keyvalue"
_CLOSED = "the storage is closed: open a new one"
_CLOSED_UNDER_IT = "the storage was closed: the transaction was rolled back"
_OF_THE_PARENT = "the transaction belongs to the process that began it"


class _Stores(MapScope):
    """A backend with all stores of the key-value engine."""

    def _set_up(self, rows: ObjectRows | JsonRows) -> None:
        self.rows = rows
        self.jobs = KeyValueJobs(self)
        self.sessions = KeyValueSessions(self)
        self.approvals = KeyValueApprovals(self)
        self.idempotency = KeyValueIdempotency(self)
        self.nonces = KeyValueNonces(self)
        self.metrics = KeyValueMetrics(self)
        self.lock = KeyValueLocks(self)
        self.events = KeyValueEvents(self)
        self.snapshots = KeyValueSnapshots(self)
        self.documents = KeyValueDocuments(self)
        self.retention = KeyValueRetention(self)

    def read_rows(self, kind: str, *, after: Row | None, limit: int) -> Sequence[Row]:
        return KeyValueTransfer(self).read(kind, after=after, limit=limit)

    def write_rows(self, kind: str, rows: Sequence[Row], *, after: Row | None, through: Row | None) -> None:
        KeyValueTransfer(self).write(kind, rows, after=after, through=through)


class KeyValueBackend(_Stores, forks.ForkAware):
    """An engine whose stores are all derived from the ordered map `store`.

    A subclass sets the traits (`in_process`, `durable`, `multi_process`, `writers`). With `auto_migrate`
    the first use prepares an empty store; without it only `migrate` does, and other calls raise
    MigrationError until then.
    """

    def __init__(self, store: OrderedStore[Any], *, auto_migrate: bool = True) -> None:
        self._store = store
        self._auto_migrate = auto_migrate
        self._longest_key = store.max_key_bytes
        self._writing = threading.Lock()
        self._preparing = threading.Lock()
        self._is_usable = False
        """Whether the store is prepared, and not closed."""
        self._is_closed = False
        self._open: set[KeyValueTransaction] = set()
        self._jobs_changed = False
        self._changes = Changes(store.version)
        self._write_block = WriteBlock(self)
        self._set_up(ObjectRows() if store.holds_objects else JsonRows())
        forks.register(self)

    def begin_read(self) -> OrderedMap:
        """Return a map for reading. Pass it to `end_read` afterwards."""
        if not self._is_usable:
            self._prepare(self._auto_migrate)
        map = self._store.begin(False)
        return map if self._longest_key is None else LongKeys(map, self._longest_key)

    def end_read(self, map: OrderedMap) -> None:
        """End the use of a map that `begin_read` returned."""
        self._store.rollback(map.map if isinstance(map, LongKeys) else map)

    def begin_write(self, *, is_preparing: bool = False) -> OrderedMap:
        """Begin the only write transaction of this process, and return its map. Pass it to `end_write`."""
        if not (self._is_usable or is_preparing):
            self._prepare(self._auto_migrate)
        if not self._writing.acquire(timeout=LOCK_SECONDS):
            raise StorageUnavailable(
                f"another transaction of this process did not end within {LOCK_SECONDS:g} seconds"
            )
        try:
            if self._is_closed:
                raise StorageClosed(_CLOSED)
            map = self._store.begin(True)
        except BaseException:
            self._writing.release()
            raise
        return map if self._longest_key is None else LongKeys(map, self._longest_key)

    def end_write(self, map: OrderedMap, *, commit: bool) -> None:
        """Commit or roll back the transaction of a map that `begin_write` returned."""
        changed, self._jobs_changed = self._jobs_changed and commit, False
        try:
            if isinstance(map, LongKeys):
                map = map.map
            if commit:
                self._store.commit(map)
            else:
                self._store.rollback(map)
        finally:
            self._writing.release()
        if changed:
            self._changes.add()

    def read(self) -> Block:
        return ReadBlock(self)

    def write(self) -> Block:
        return self._write_block

    def note_look(self) -> None:
        if not self._is_usable:
            self._prepare(self._auto_migrate)
        self._changes.note()

    def note_jobs(self) -> None:
        self._jobs_changed = True

    def wait(self, timeout: float) -> None:
        """See `JobStore.wait`."""
        if not self._is_usable:
            self._prepare(self._auto_migrate)
        self._changes.wait(timeout)

    @contextmanager
    def transaction(self) -> Iterator[KeyValueTransaction]:
        tx = KeyValueTransaction(self, self.begin_write())
        self._open.add(tx)
        try:
            yield tx
        except BaseException:
            self._end(tx, commit=False)
            raise
        self._end(tx, commit=True)

    @contextmanager
    def snapshot(self, *, hold_writers: bool = False) -> Iterator[KeyValueTransaction]:
        """See `StorageBackend.snapshot`. In memory it always holds off writers, so that readers go on."""
        if hold_writers or self.in_process:
            with self.transaction() as tx:
                yield tx
            return
        map = self.begin_read()
        try:
            yield KeyValueTransaction(self, map)
        finally:
            self.end_read(map)

    def _end(self, tx: KeyValueTransaction, *, commit: bool) -> None:
        try:
            if commit:
                tx.check()
        finally:
            # `close` and the end of the block compete to end it; in a forked child the set is empty.
            if tx in self._open:
                self._open.remove(tx)
                self.end_write(tx.map.map, commit=commit and not tx.map.is_torn)
        if commit and tx.map.is_torn:
            raise StorageUnavailable(
                "a nested transaction could not be rolled back alone, so the whole one was: run it again"
            )

    def now(self) -> datetime:
        if self._is_closed:
            raise StorageClosed(_CLOSED)
        return machine_clock.now()

    def lease_time(self, now: datetime) -> datetime:
        return machine_clock.lease_time(now)

    def migrate(self) -> list[str]:
        """Prepare an empty store, even if `auto_migrate` is False."""
        return self._prepare(may_write=True)

    def bind(self, connection: Any) -> MapScope:
        if self._is_closed:
            raise StorageClosed(_CLOSED)
        super().bind(connection)
        return self

    def close(self) -> None:
        """See `StorageBackend.close`. It waits up to LOCK_SECONDS for a write in progress."""
        if self._is_closed:
            return
        self._is_closed, self._is_usable = True, False
        for tx in [*self._open]:
            tx.end(_CLOSED_UNDER_IT)
            self._end(tx, commit=False)
        is_alone = self._writing.acquire(timeout=LOCK_SECONDS)
        try:
            with self._preparing:
                self._store.close()
        finally:
            if is_alone:
                self._writing.release()
            self._changes.add()

    def _prepare(self, may_write: bool) -> list[str]:
        with self._preparing:
            if self._is_closed:
                raise StorageClosed(_CLOSED)
            self._store.open()
            applied = [] if self._has_format() else self._write_format(may_write)
            self._is_usable = True
            return applied

    def _has_format(self) -> bool:
        map = self._store.begin(False)
        try:
            found = map.get(keys.FORMAT)
        finally:
            self._store.rollback(map)
        if found is not None and found != keys.number(FORMAT):
            raise MigrationError(
                f"the data has format {keys.last_number(found)}, and this version of assistly reads "
                f"format {FORMAT}: use the version that wrote the data, or a later one"
            )
        return found is not None

    def _write_format(self, may_write: bool) -> list[str]:
        if not may_write:
            raise MigrationError(
                f"the database lacks the migration {_FIRST}, and it is not applied automatically "
                "(STORAGE_AUTO_MIGRATE is false): run `assistly migrate`"
            )
        map = self.begin_write(is_preparing=True)
        try:
            is_first = map.get(keys.FORMAT) is None
            map.put(keys.FORMAT, keys.number(FORMAT))
        except BaseException:
            self.end_write(map, commit=False)
            raise
        try:
            self.end_write(map, commit=is_first)
        except OutcomeUnknown as error:
            # Of the call that needed the format, nothing was written.
            raise StorageUnavailable(f"the new store may not be ready yet; try again: {error}") from error
        return [_FIRST] if is_first else []

    def before_fork(self) -> None:
        self._store.before_fork()

    def after_fork_in_parent(self) -> None:
        self._store.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Replace locks that other threads may hold, and forget the transactions, which are the parent's."""
        self._writing = threading.Lock()
        self._preparing = threading.Lock()
        self._is_usable = False
        self._jobs_changed = False
        self._open = set()
        self._changes.renew()
        self._store.after_fork_in_child()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class KeyValueTransaction(_Stores):
    """The stores inside a transaction. Each call that writes is a savepoint."""

    def __init__(self, root: KeyValueBackend, map: OrderedMap) -> None:
        self._root = root
        self._reason: str | None = None
        self._generation = forks.generation()
        self.map = UndoMap(map)
        self._set_up(root.rows)

    def check(self) -> None:
        """Raise StorageClosed after `end`, and in a forked child."""
        if self._generation != forks.generation():
            raise StorageClosed(_OF_THE_PARENT)
        if self._reason is not None:
            raise StorageClosed(self._reason)

    def end(self, reason: str) -> None:
        """Refuse later calls, with this reason."""
        self._reason = reason

    def read(self) -> Block:
        self.check()
        return PlainBlock(self.map)

    def write(self) -> Block:
        self.check()
        return StepBlock(self.map)

    def now(self) -> datetime:
        return machine_clock.now()

    def lease_time(self, now: datetime) -> datetime:
        return machine_clock.lease_time(now)

    def note_look(self) -> None:
        """Nothing to note: `wait` is not called on a transaction."""

    def note_jobs(self) -> None:
        self._root.note_jobs()

    def wait(self, timeout: float) -> None:
        """Never called."""
        self._root.wait(timeout)

    @contextmanager
    def transaction(self) -> Iterator[KeyValueTransaction]:
        with self.write():
            yield self

    @contextmanager
    def snapshot(self, *, hold_writers: bool = False) -> Iterator[KeyValueTransaction]:  # noqa: ARG002
        raise StorageError("a transaction cannot be exported: call `snapshot` of the engine")
        yield self

    def close(self) -> None:
        """Nothing to close: the block ends it."""

    def __repr__(self) -> str:
        return repr(self._root)
