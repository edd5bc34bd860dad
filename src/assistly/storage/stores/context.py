"""What the stores of one `Storage` share: the engine, the clock and the policies."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from .. import forks
from ..clock import Clock
from ..engine.protocol import StorageBackend
from ..errors import StorageClosed, TransactionAborted
from ..records import record
from ..retention import RetentionPolicy
from ..retry import RetryPolicy
from ..transactions import check_outside, inside
from ..validation import utc

T = TypeVar("T")

_ATTEMPTS = 5


@record
class Policies:
    """When failed jobs are retried, what is kept for how long, and how long a lock is held by default."""

    retry: RetryPolicy
    retention: RetentionPolicy
    lock_ttl: timedelta


class Context(forks.ForkAware):
    """`is_root` is False for the storage of a transaction or of a bound connection.

    `on_use` is called at the first use, and at the first one after each `note_next_use`.
    """

    def __init__(
        self,
        backend: StorageBackend,
        clock: Clock | None,
        policies: Policies,
        *,
        is_root: bool = False,
        on_use: Callable[[], None] = lambda: None,
    ) -> None:
        self.idle_backend = backend
        """The engine, without counting as use."""
        self.clock = clock
        self.policies = policies
        self.is_root = is_root
        self.writers = backend.writers if is_root else 0
        """How many single writes may be under way before further ones are collected into batches."""
        self.closed = False
        self._on_use = on_use
        self._noted = False
        if is_root:
            forks.register(self)

    def after_fork_in_child(self) -> None:
        """What `on_use` started, a thread say, is not there in the child."""
        self.note_next_use()

    @property
    def backend(self) -> StorageBackend:
        """The engine, for an operation of the caller's.

        Raises StorageClosed, and TransactionOpen where the caller has a transaction open on it.
        """
        self.check()
        return self.idle_backend

    def check(self) -> None:
        """Raise what `backend` raises."""
        if not self._noted:
            self._note_use()
        check_outside(self.idle_backend)

    def note_next_use(self) -> None:
        """Call `on_use` at the next use."""
        self._noted = False

    def close(self) -> None:
        """Refuse later calls."""
        self.closed = True
        self._noted = False

    def _note_use(self) -> None:
        # Set before `closed` is read, so that a `close` in another thread is not overlooked.
        self._noted = True
        if self.closed:
            self._noted = False
            raise StorageClosed("the storage is closed: open another one")
        self._on_use()

    def now(self, given: datetime | None, backend: StorageBackend | None = None) -> datetime:
        """`given`, or what the clock says: the storage's, else the engine's own.

        Inside `atomically` the engine is asked through the `backend` of the transaction.
        """
        if given is not None:
            return utc("now", given)
        if self.clock is not None:
            return utc("the clock's time", self.clock())
        return (backend or self.idle_backend).now()

    def atomically(self, work: Callable[[StorageBackend], T]) -> T:
        """Run the work in a transaction, and again from the start if it lost a race to another one."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._in_transaction(work)
            except TransactionAborted:
                continue
        return self._in_transaction(work)

    def _in_transaction(self, work: Callable[[StorageBackend], T]) -> T:
        outer = self.backend
        # The work may run a function of the caller's, which must not call this storage meanwhile.
        with inside(outer), outer.transaction() as backend:
            return work(backend)
