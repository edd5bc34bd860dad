"""Transactions: what a block owns, who may call what meanwhile, and how a block ends.

A transaction is a storage of its own, `tx`. Its calls may come from any thread or task; a guard makes
them one at a time. The storage that it was opened on does not take part: a context variable tells which
transactions the calling thread or task has open, and a call on that storage raises TransactionOpen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from . import forks
from .errors import StorageClosed, TransactionOpen

if TYPE_CHECKING:
    from .engine.protocol import StorageBackend

T = TypeVar("T")
V = TypeVar("V")

_ABORT_SECONDS = 5.0


class _Mark:
    """An open transaction, as the threads and tasks inside it know it."""

    __slots__ = ("_generation", "root")

    def __init__(self, root: StorageBackend) -> None:
        self.root: StorageBackend | None = root
        self._generation = forks.generation()

    @property
    def is_open(self) -> bool:
        """In a forked child none is: it belongs to the parent."""
        return self.root is not None and self._generation == forks.generation()

    def close(self) -> None:
        """Contexts may keep the mark for long; the backend is not to live as long as they do."""
        self.root = None


_marks: ContextVar[tuple[_Mark, ...]] = ContextVar("assistly_open_transactions", default=())


def check_outside(backend: StorageBackend) -> None:
    """Raise TransactionOpen if the calling thread or task is inside a transaction of this backend."""
    for mark in _marks.get():
        if mark.root is backend and mark.is_open:
            raise TransactionOpen(
                "a transaction is open here: call the storage that `transaction()` returned "
                "(`with storage.transaction() as tx: tx.…`), or leave the block first"
            )


def is_inside(backend: StorageBackend) -> bool:
    """Whether the calling thread or task is inside a transaction of this backend."""
    try:
        check_outside(backend)
    except TransactionOpen:
        return True
    return False


class Guard:
    """Makes the calls on one transaction, or on one bound connection, one at a time."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._generation = forks.generation()
        # Reentrant: a function that `sessions.update` calls may call the transaction.
        self._lock = threading.RLock()
        self._reason: str | None = None
        self.nested: Transaction[Any] | None = None

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around each call. Raises StorageClosed after the end, TransactionOpen while a nested one is open."""
        if self._generation != forks.generation():
            raise StorageClosed(f"{self._what} belongs to the process that began it")
        with self._lock:
            self.check()
            yield

    def check(self) -> None:
        """Raise what `call` raises."""
        if self._reason is not None:
            raise StorageClosed(self._reason)
        if self.nested is not None:
            raise TransactionOpen(
                "a nested transaction is open: call the storage that its `transaction()` returned, "
                "or leave its block first"
            )

    def end(self, reason: str, *, timeout: float = -1) -> bool:
        """Let the call under way finish, and refuse all later ones; False if it did not finish in time."""
        if self._generation != forks.generation():
            self._reason = reason
            return True
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            if self._reason is None:
                self._reason = reason
        finally:
            self._lock.release()
        return True


class _GuardedStore:
    def __init__(self, store: Any, guard: Guard) -> None:
        self._store = store
        self._guard = guard

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not callable(method):
            return method
        guard = self._guard

        def call(*args: Any, **kwargs: Any) -> Any:
            with guard.call():
                return method(*args, **kwargs)

        self.__dict__[name] = call
        return call

    def __repr__(self) -> str:
        return repr(self._store)


class _GuardedBackend(_GuardedStore):
    """The backend of a transaction; `transaction` is for operations of several steps, not for users' blocks."""

    _STORES = frozenset(
        "jobs sessions approvals idempotency nonces metrics lock events snapshots retention".split()
    )

    def __getattr__(self, name: str) -> Any:
        if name in self._STORES:
            store = self.__dict__[name] = _GuardedStore(getattr(self._store, name), self._guard)
            return store
        return super().__getattr__(name)

    @contextmanager
    def transaction(self) -> Iterator[StorageBackend]:
        with self._guard.call(), self._store.transaction() as backend:
            yield backend


def guarded(backend: StorageBackend, guard: Guard) -> StorageBackend:
    """`backend`, with each call made inside `guard.call()`."""
    return cast("StorageBackend", _GuardedBackend(backend, guard))


class Transaction(AbstractContextManager[V], Generic[V]):
    """The block that `Storage.transaction()` returns; entered once, and left on any thread.

    `begin` and `end` do the work, and `mark` and `unmark` tell the calling thread or task about it: an
    event loop has the work done by another thread.
    """

    def __init__(
        self,
        root: StorageBackend,
        open_backend: Callable[[], AbstractContextManager[StorageBackend]],
        view: Callable[[StorageBackend, Guard], V],
        parent: Guard | None,
        on_end: Callable[[Transaction[V]], None],
    ) -> None:
        self._open_backend = open_backend
        self._view = view
        self._parent = parent
        self._on_end = on_end
        self._mark = _Mark(root)
        self._guard = Guard("the transaction")
        self._block: AbstractContextManager[StorageBackend] | None = None
        self._aborted: str | None = None
        self._ending = threading.Lock()
        self._generation = forks.generation()

    def begin(self) -> V:
        """Begin, and return the storage whose calls are part of it."""
        if self._block is not None:
            raise StorageClosed("a transaction is entered once: call `transaction()` again")
        if self._parent is None:
            return self._begin()
        with self._parent.call():
            view = self._begin()
            self._parent.nested = self
            return view

    def _begin(self) -> V:
        block = self._open_backend()
        backend = block.__enter__()
        self._block = block
        return self._view(backend, self._guard)

    def mark(self) -> None:
        """From here on the calling thread or task is inside."""
        if self._parent is None:
            _marks.set((*(mark for mark in _marks.get() if mark.is_open), self._mark))

    def unmark(self) -> None:
        """The calling thread or task is no longer inside."""
        _marks.set(tuple(mark for mark in _marks.get() if mark.is_open))

    def end(self, error: BaseException | None) -> None:
        """Commit, or undo because of `error`. Raises StorageClosed where it was undone before."""
        if self._generation != forks.generation():
            self._leave_to_parent(error)
            return
        self._guard.end("the transaction has ended")
        self._mark.close()
        with self._ending:
            block, self._block = self._block, None
        try:
            if self._guard.nested is not None:
                self._guard.nested.abort("the transaction around it has ended")
            if block is not None:
                block.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
            elif error is None:
                raise StorageClosed(self._aborted or "the transaction has ended")
        finally:
            if self._parent is not None and self._parent.nested is self:
                self._parent.nested = None
            self._on_end(self)

    def abort(self, reason: str) -> None:
        """Undo it from outside. Its own end raises StorageClosed.

        A call that is under way gets some seconds to finish; one that does not is left to its own end.
        """
        self._aborted = f"{reason}: the transaction was undone"
        if self._guard.end(self._aborted, timeout=_ABORT_SECONDS):
            self.end(StorageClosed(self._aborted))

    def _leave_to_parent(self, error: BaseException | None) -> None:
        """In a forked child: neither commit nor undo what the parent has open."""
        forks.keep_for_ever(self._block)
        if error is None:
            raise StorageClosed("the transaction belongs to the process that began it")

    def __enter__(self) -> V:
        view = self.begin()
        self.mark()
        return view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end(error)
        finally:
            self.unmark()
