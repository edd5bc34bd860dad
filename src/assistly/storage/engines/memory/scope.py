"""One lock around everything, and all-or-nothing blocks under it."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakSet

from ...errors import StorageClosed
from .tables import Journal


class Changes:
    """A count of committed changes that threads can sleep on."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0
        self._seen = threading.local()

    def note(self) -> None:
        """The thread looked at the data: its next `wait` returns at once if they changed since."""
        self._seen.count = self._count

    def add(self) -> None:
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, timeout: float) -> None:
        with self._condition:
            seen = self._seen.__dict__.pop("count", self._count)
            self._condition.wait_for(lambda: self._count != seen, min(timeout, threading.TIMEOUT_MAX))

    def renew_lock(self) -> None:
        self._condition = threading.Condition()


class Database:
    """The lock, and the journal of the outermost block under it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.journal = Journal()
        self.marks: list[int] = []
        self.woken = False
        self.changes = Changes()
        _databases.add(self)

    def wake(self, *, committed: bool) -> None:
        self.woken = False
        if committed:
            self.changes.add()

    def after_fork(self) -> None:
        self.changes.renew_lock()
        # A lock that is free, or held by the thread that forked, goes on as it is.
        if self.lock.acquire(blocking=False):
            self.lock.release()
            return
        self.lock = threading.RLock()
        self.marks.clear()
        self.woken = False
        self.journal.undo(0)


_databases: WeakSet[Database] = WeakSet()


def _after_fork() -> None:
    for database in _databases:
        database.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Scope:
    """`with scope:` has the database to itself, and an exception undoes what the block did.

    Blocks nest. Other threads see a change when the outermost block has ended.
    """

    def __init__(self, database: Database, closed_message: str) -> None:
        self.database = database
        self._closed_message = closed_message
        self.closed = False

    def __enter__(self) -> Database:
        database = self.database
        database.lock.acquire()
        if self.closed:
            database.lock.release()
            raise StorageClosed(self._closed_message)
        database.marks.append(len(database.journal.entries))
        return database

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        database = self.database
        try:
            mark = database.marks.pop()
            if kind is not None:
                database.journal.undo(mark)
            if not database.marks:
                database.journal.entries.clear()
                if database.woken:
                    database.wake(committed=kind is None)
        finally:
            database.lock.release()

    def check(self) -> None:
        if self.closed:
            raise StorageClosed(self._closed_message)

    def close(self) -> None:
        self.closed = True
