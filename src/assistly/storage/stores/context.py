"""What the stores of one `Storage` share: the engine, the clock and the policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from ..backend import StorageBackend
from ..clock import Clock
from ..errors import StorageClosed, TransactionAborted
from ..retention import RetentionPolicy, milliseconds
from ..retry import RetryPolicy
from ..validation import moment

T = TypeVar("T")

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Policies:
    retry: RetryPolicy
    retention: RetentionPolicy
    lock_ttl: timedelta


class Context:
    """`on_use` is told of the first use, and of the first one after each `note_next_use`."""

    def __init__(
        self, backend: StorageBackend, clock: Clock | None, policies: Policies, on_use: Callable[[], None]
    ) -> None:
        self._backend = backend
        self._on_use = on_use
        self.ready: StorageBackend | None = None
        """`backend`, unless the next use has to be noted: a property costs a tenth of the shortest calls."""
        self.clock = clock
        self.policies = policies
        self.closed = False

    @property
    def backend(self) -> StorageBackend:
        """The engine, for an operation of the caller's."""
        return self.ready or self._note_use()

    def note_next_use(self) -> None:
        self.ready = None

    def close(self) -> None:
        self.closed = True
        self.ready = None

    def _note_use(self) -> StorageBackend:
        # In this order, so that a `close` beside it is not overlooked.
        self.ready = self._backend
        if self.closed:
            self.ready = None
            raise StorageClosed("the storage is closed: open another one")
        self._on_use()
        return self._backend

    @property
    def idle_backend(self) -> StorageBackend:
        """The engine, without counting as use."""
        return self._backend

    def now(self, given: datetime | None) -> datetime:
        if given is not None:
            return moment("now", given)
        if self.clock is not None:
            return moment("the clock's time", self.clock())
        return self._backend.now()

    def now_ms(self) -> int:
        """`now` as nonces keep their time."""
        return self._backend.now_ms() if self.clock is None else milliseconds(self.now(None))

    def atomically(self, work: Callable[[StorageBackend], T]) -> T:
        """Run the work in a transaction, and again from the start if it lost a race to another."""
        for _ in range(_ATTEMPTS - 1):
            try:
                with self.backend.transaction() as backend:
                    return work(backend)
            except TransactionAborted:
                continue
        with self.backend.transaction() as backend:
            return work(backend)
