"""What runs on one connection: in a transaction of ours, or in the caller's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ...errors import StorageUnavailable
from .connections import BoundConnection, Connection
from .transactions import atomic

T = TypeVar("T")


class Session:
    """A transaction that one thread has begun, and that others may take part in."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.lock = threading.RLock()

    def read(self, work: Callable[[Connection], T]) -> T:
        with self.lock:
            self._before_read()
            return work(self._connection)

    def autocommit(self, work: Callable[[Connection], T]) -> T:
        with self.lock:
            self._before_write()
            return work(self._connection)

    def in_transaction(self, work: Callable[[Connection], T]) -> T:
        with self.lock:
            self._before_write()
            with atomic(self._connection):
                return work(self._connection)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._before_write()
        with atomic(self._connection):
            yield

    def _before_read(self) -> None:
        """A transaction that SQLite gave up must not go on as single statements."""
        if not self._connection.in_transaction:
            raise StorageUnavailable("the transaction was undone after an error: begin it again")

    def _before_write(self) -> None:
        self._before_read()


class BoundSession(Session):
    """The caller's connection. What he has begun is his to commit."""

    def __init__(self, connection: BoundConnection) -> None:
        super().__init__(connection)
        self._begin = connection.begin_if_implicit

    def _before_read(self) -> None:
        pass

    def _before_write(self) -> None:
        self._begin()
