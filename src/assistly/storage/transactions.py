"""Explicit transactions: how a block begins and ends, and which calls are refused while it is open.

A transaction is a storage of its own, `tx`. Any thread or task may call it; a guard serializes the
calls. Calls on the storage that opened the transaction are not part of it: a context variable holds the
transactions that the calling thread or task has open, and a call on their storage raises TransactionOpen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast
from weakref import WeakValueDictionary, ref

from . import forks
from .errors import StorageClosed, TransactionOpen

if TYPE_CHECKING:
    from .engine.protocol import StorageBackend

V = TypeVar("V")

_STORES = {
    "jobs",
    "sessions",
    "approvals",
    "idempotency",
    "nonces",
    "metrics",
    "lock",
    "events",
    "snapshots",
    "documents",
    "retention",
}

_ENDED = "the transaction has ended"
_NESTED_IS_OPEN = (
    "a nested transaction is open: call the storage that its `transaction()` returned, "
    "or leave its block first"
)
_OPERATION_IS_OPEN = "this call is made inside another call on the same transaction"


class _Mark:
    """The entry in the context variable for one open transaction."""

    __slots__ = ("__weakref__", "_generation", "root")

    def __init__(self, root: StorageBackend) -> None:
        self.root: StorageBackend | None = root
        self._generation = forks.generation()

    @property
    def is_open(self) -> bool:
        """False after the end, and in a forked child: there the transaction belongs to the parent."""
        return self.root is not None and self._generation == forks.generation()

    def close(self) -> None:
        self.root = None


# Weak references: a transaction that was collected without being left no longer counts as open.
_marks: ContextVar[tuple[ref[_Mark], ...]] = ContextVar("assistly_open_transactions", default=())


def _open_marks() -> list[_Mark]:
    return [mark for mark in (reference() for reference in _marks.get()) if mark is not None and mark.is_open]


def check_outside(backend: StorageBackend) -> None:
    """Raise TransactionOpen if the calling thread or task is inside a transaction of this backend."""
    # Every operation calls this, almost always with no transaction open: that case must be cheap.
    if _marks.get() and any(mark.root is backend for mark in _open_marks()):
        raise TransactionOpen(
            "a transaction is open here: call the storage that `transaction()` returned (`with "
            "storage.transaction() as tx: tx.…`), or leave the block first. A function that an operation "
            "calls must not call the storage"
        )


@contextmanager
def inside(backend: StorageBackend) -> Iterator[None]:
    """Mark `backend` as in a transaction while the block runs a function that the caller supplied."""
    mark = _Mark(backend)
    token = _marks.set((*_marks.get(), ref(mark)))
    try:
        yield
    finally:
        mark.close()
        _marks.reset(token)


class Guard:
    """Serializes the calls on one transaction or bound connection, `what` in error messages.

    Each call runs inside `with guard:`, which raises StorageClosed after the end, and TransactionOpen
    while a nested transaction is open.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._generation = forks.generation()
        # Reentrant, so that a call made inside another one on the same thread is refused, not deadlocked.
        self._lock = threading.RLock()
        self._is_called = False
        self._ended: str | None = None
        self.nested: Transaction[Any] | None = None

    def __enter__(self) -> None:
        if self._generation != forks.generation():
            raise StorageClosed(f"{self._what} belongs to the process that began it")
        self._lock.acquire()
        try:
            if self._ended is not None:
                raise StorageClosed(self._ended)
            if self.nested is not None:
                raise TransactionOpen(_NESTED_IS_OPEN)
            if self._is_called:
                raise TransactionOpen(_OPERATION_IS_OPEN)
        except BaseException:
            self._lock.release()
            raise
        self._is_called = True

    def __exit__(self, *_: object) -> None:
        self._is_called = False
        self._lock.release()

    def end(self, reason: str, *, timeout: float = -1) -> bool:
        """Refuse later calls with `reason`, and wait for the call in progress.

        Returns True when no call is in progress; False if it takes longer than `timeout` seconds (-1: no
        limit), or if it is the caller's own.
        """
        self._ended = self._ended or reason
        if self._generation != forks.generation():
            return True
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            return not self._is_called
        finally:
            self._lock.release()


class _GuardedStore:
    """A store whose methods run inside the guard. Each is wrapped on its first use."""

    def __init__(self, store: Any, guard: Guard) -> None:
        self._store = store
        self._guard = guard

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not callable(method):
            return method
        guard = self._guard

        def call(*args: Any, **kwargs: Any) -> Any:
            with guard:
                return method(*args, **kwargs)

        self.__dict__[name] = call
        return call

    def __repr__(self) -> str:
        return repr(self._store)


class _GuardedBackend(_GuardedStore):
    """The backend of a transaction or of a bound connection.

    It keeps `owner` alive. Its `transaction` is a savepoint for one operation of several steps; the blocks
    of users call that of the unguarded backend.
    """

    def __init__(self, backend: StorageBackend, guard: Guard, owner: object) -> None:
        super().__init__(backend, guard)
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        if name in _STORES:
            store = self.__dict__[name] = _GuardedStore(getattr(self._store, name), self._guard)
            return store
        return super().__getattr__(name)

    @contextmanager
    def transaction(self) -> Iterator[StorageBackend]:
        with self._guard, self._store.transaction() as backend:
            yield backend


def guarded(backend: StorageBackend, guard: Guard, owner: object = None) -> StorageBackend:
    """Return `backend` with each call made inside `guard`. The result keeps `owner` alive."""
    return cast("StorageBackend", _GuardedBackend(backend, guard, owner))


def not_entered(name: str, keyword: str) -> StorageClosed:
    """Return the error for a call on what `transaction()` returned, outside a block."""
    return StorageClosed(
        f"the transaction has not begun: write `{keyword} storage.transaction() as tx:`, and "
        f"use tx.{name} there"
    )


class Transaction(AbstractContextManager[V], Generic[V]):
    """The context manager that `Storage.transaction()` returns; entered once, and left on any thread.

    `begin` and `end` talk to the engine; `mark` and `unmark` set the context variable of the calling
    thread or task. They are separate since an `AsyncStorage` makes the first two in a worker thread.
    `root` is the backend of the outermost transaction, `owner` the storage that opened this one.
    """

    def __init__(
        self,
        root: StorageBackend,
        owner: object,
        open_backend: Callable[[], AbstractContextManager[StorageBackend]],
        view: Callable[[StorageBackend, Guard, object], V],
        parent: Guard | None,
    ) -> None:
        self.root = root
        self.owner = ref(owner)
        self._open_backend = open_backend
        self._view = view
        self._parent = parent
        self._guard = Guard("the transaction")
        self._mark = _Mark(root)
        self._generation = forks.generation()
        self._began = False
        self._block: AbstractContextManager[StorageBackend] | None = None
        self._aborted: str | None = None
        # Held while the state changes. Reentrant: `abort` calls `end`.
        self._lock = threading.RLock()
        _registry.add(self)

    def begin(self) -> V:
        """Begin, and return the storage whose calls are part of it."""
        if self._parent is None:
            check_outside(self.root)
        with self._lock:
            if self._aborted is not None:
                raise StorageClosed(self._aborted)
            if self._began:
                raise StorageClosed("a transaction can be entered only once: call `transaction()` again")
            self._began = True
        try:
            if self._parent is None:
                return self._enter()
            with self._parent:
                view = self._enter()
                self._parent.nested = self
                return view
        except BaseException:
            _registry.discard(self)
            raise

    def _enter(self) -> V:
        block = self._open_backend()
        backend = block.__enter__()
        try:
            view = self._view(backend, self._guard, self)
            with self._lock:
                if self._aborted is not None:
                    raise StorageClosed(self._aborted)
                self._block = block
                return view
        except BaseException as error:
            _leave(block, error)
            raise

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") or not hasattr(self.owner(), name):
            raise AttributeError(name)
        raise not_entered(name, "with")

    def mark(self) -> None:
        """Note that the calling thread or task is inside this transaction."""
        if self._parent is None:
            _marks.set((*map(ref, _open_marks()), ref(self._mark)))

    def unmark(self) -> None:
        """Note that the calling thread or task has left this transaction."""
        _marks.set(tuple(ref(mark) for mark in _open_marks() if mark is not self._mark))

    @property
    def is_marked(self) -> bool:
        """Whether the calling thread or task is inside."""
        return self._mark in _open_marks()

    def end(self, error: BaseException | None) -> None:
        """Commit, or undo if there is an `error`. Raises StorageClosed if it has ended or was aborted."""
        if self._generation != forks.generation():
            self._leave_to_parent(error)
            return
        self._guard.end(_ENDED)
        with self._lock:
            self._mark.close()
            block, self._block = self._block, None
            cause = error
            if cause is None and (block is None or self._aborted is not None):
                cause = StorageClosed(self._aborted or _ENDED)
            if block is not None:
                try:
                    if self._guard.nested is not None:
                        self._guard.nested.abort("the transaction around it has ended", timeout=-1)
                    _leave(block, cause)
                finally:
                    self._forget()
            if error is None and cause is not None:
                raise cause

    def abort(self, reason: str, *, timeout: float) -> bool:
        """Undo the transaction from outside its block, which then raises StorageClosed at its end.

        Returns False if a call in progress, here or on a nested transaction, does not finish within
        `timeout` seconds (-1: no limit) or is the caller's own; the end of the block undoes it then.
        """
        self._aborted = self._aborted or f"{reason}: the transaction was undone"
        if not self._guard.end(self._aborted, timeout=timeout):
            return False
        nested = self._guard.nested
        if nested is not None and not nested.abort(reason, timeout=timeout):
            return False
        with self._lock:
            if self._block is not None:
                self.end(StorageClosed(self._aborted))
        _registry.discard(self)
        return True

    def _forget(self) -> None:
        if self._parent is not None and self._parent.nested is self:
            self._parent.nested = None
        _registry.discard(self)

    def _leave_to_parent(self, error: BaseException | None) -> None:
        """In a forked child: neither commit nor undo, since the connection is the parent's."""
        forks.keep_for_ever(self._block)
        if error is None:
            raise StorageClosed("the transaction belongs to the process that began it")

    def __enter__(self) -> V:
        try:
            view = self.begin()
            self.mark()
        except BaseException as error:
            # A KeyboardInterrupt may come between `begin` and `mark`.
            if self._block is not None:
                self.end(error)
            raise
        return view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end(error)
        finally:
            self.unmark()


def _leave(block: AbstractContextManager[Any], error: BaseException | None) -> None:
    if error is None:
        block.__exit__(None, None, None)
    else:
        block.__exit__(type(error), error, error.__traceback__)


class _Registry(forks.ForkAware):
    """The transactions that have not ended, of all storages."""

    def __init__(self) -> None:
        self._transactions: WeakValueDictionary[int, Transaction[Any]] = WeakValueDictionary()
        forks.register(self)

    def add(self, transaction: Transaction[Any]) -> None:
        self._transactions[id(transaction)] = transaction

    def discard(self, transaction: Transaction[Any]) -> None:
        self._transactions.pop(id(transaction), None)

    def all(self) -> list[Transaction[Any]]:
        # Not `values()`, which iterates over a dictionary that other threads may change.
        found = (reference() for reference in self._transactions.valuerefs())
        return [transaction for transaction in found if transaction is not None]

    def after_fork_in_child(self) -> None:
        """Keep them alive: collecting one would undo it on the parent's connection."""
        for transaction in self.all():
            forks.keep_for_ever(transaction)
        self._transactions = WeakValueDictionary()


_registry = _Registry()


def opened_by(owner: object) -> list[Transaction[Any]]:
    """Return the transactions that were opened on the storage `owner` and have not ended."""
    return [transaction for transaction in _registry.all() if transaction.owner() is owner]


def is_any_open(root: StorageBackend, *, besides: Transaction[Any] | None = None) -> bool:
    """Whether any thread or task, except in `besides`, has begun or is beginning a transaction on `root`."""
    return any(transaction.root is root and transaction is not besides for transaction in _registry.all())
