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
    """The policies of a `Storage`: retries, retention, and the default duration of a lock."""

    retry: RetryPolicy
    retention: RetentionPolicy
    lock_ttl: timedelta


class Context(forks.ForkAware):
    """The engine, clock and policies that the stores of one `Storage` share.

    `is_root` is False for the storage of a transaction or of a bound connection. `on_use` is called at the
    first use, and at the first one after each `note_next_use`.
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
        """The engine, without the checks of `backend`, and without counting as use."""
        self.clock = clock
        self.policies = policies
        self.is_root = is_root
        self.writers = backend.writers if is_root else 0
        """How many batches of single writes may be in flight; 0 inside a transaction: no batching."""
        self.closed = False
        self._on_use = on_use
        self._noted = False
        if is_root:
            forks.register(self)

    def after_fork_in_child(self) -> None:
        """Call `on_use` again: threads that it started do not exist in the child."""
        self.note_next_use()

    @property
    def backend(self) -> StorageBackend:
        """The engine, for one operation.

        Raises StorageClosed after `close`, and TransactionOpen if the calling thread or task is inside a
        transaction on it.
        """
        self.check()
        return self.idle_backend

    def check(self) -> None:
        """Raise StorageClosed or TransactionOpen, as `backend` does."""
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
        # Set before `closed` is read: `close` in another thread writes them in the opposite order.
        self._noted = True
        if self.closed:
            self._noted = False
            raise StorageClosed("the storage is closed: open a new one")
        self._on_use()

    def now(self, given: datetime | None, backend: StorageBackend | None = None) -> datetime:
        """Return `given`, or the time of the storage's clock, or else of the engine's own.

        Inside `atomically`, pass the `backend` of the transaction, so that the engine's time is read there.
        """
        if given is not None:
            return utc("now", given)
        if self.clock is not None:
            return utc("the clock's time", self.clock())
        return (backend or self.idle_backend).now()

    def lease_now(self, given: datetime | None) -> datetime:
        """The time from which leases, locks and claims are counted: `now`, converted by the engine."""
        return self.times(given)[1]

    def times(self, given: datetime | None) -> tuple[datetime, datetime]:
        """`now` and `lease_now`. Only the engine's own time is converted."""
        now = self.now(given)
        if given is not None or self.clock is not None:
            return now, now
        convert: Callable[[datetime], datetime] | None = getattr(self.idle_backend, "lease_time", None)
        return now, now if convert is None else convert(now)

    def atomically(self, work: Callable[[StorageBackend], T]) -> T:
        """Run `work` in a transaction, and again (5 times at most) if that raises TransactionAborted."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._in_transaction(work)
            except TransactionAborted:
                continue
        return self._in_transaction(work)

    def _in_transaction(self, work: Callable[[StorageBackend], T]) -> T:
        outer = self.backend
        # `work` may call a function of the user's, in which calls on this storage raise TransactionOpen.
        with inside(outer), outer.transaction() as backend:
            return work(backend)
