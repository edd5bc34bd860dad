"""Work on the one connection of a transaction, or of the caller's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from ...errors import StorageClosed, StorageUnavailable
from ..sql.database import Database, Executor, Params
from .clock import ServerClock, ticks
from .connections import is_broken
from .courier import Announcement
from .dialect import PostgresDialect
from .errors import nothing_committed, translate, unknown_outcome
from .executor import PostgresExecutor
from .notifying import ANY_TIME, NOTIFY, channel
from .upkeep import Upkeep

if TYPE_CHECKING:
    from .database import PostgresDatabase

T = TypeVar("T")

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"


class PostgresWork(Database, Protocol):
    """What the stores of this engine need besides."""

    @property
    def dialect(self) -> PostgresDialect: ...

    @property
    def clock(self) -> ServerClock: ...

    @property
    def upkeep(self) -> Upkeep: ...

    def read(self, work: Callable[[PostgresExecutor], T]) -> T: ...

    def autocommit(self, work: Callable[[PostgresExecutor], T]) -> T: ...

    def in_transaction(self, work: Callable[[PostgresExecutor], T]) -> T: ...

    def announce(self, announcement: Announcement) -> None:
        """Tell those who wait for jobs, once these are committed."""

    def may_tell(self) -> bool:
        """Whether a statement may tell them itself: it commits itself, and is not one of a stream."""

    def told(self) -> None: ...

    def look(self) -> None:
        """The thread is about to look at the jobs: `wait` is about what happens after that."""

    def rolled_back(self, work: Callable[[PostgresExecutor], T]) -> T:
        """A transaction, or a savepoint, that is always undone: locks taken in it are free again."""

    def sees_later_commits(self) -> bool:
        """Whether each statement sees what others committed before it. Not in REPEATABLE READ."""


class Session:
    """A connection with its lock; `foreign` where its transactions are the caller's to commit."""

    def __init__(
        self, connection: psycopg.Connection[Any], executor: PostgresExecutor, *, foreign: bool = False
    ) -> None:
        self.connection = connection
        self.executor = executor
        self.foreign = foreign
        self.lock = threading.RLock()
        self.announcement: Announcement | None = None
        self._process = os.getpid()
        self._savepoints = 0

    @property
    def is_ours(self) -> bool:
        """Not after a fork: the child has the same socket as its parent."""
        return self._process == os.getpid()

    @property
    def commits_itself(self) -> bool:
        """Whether a statement sent now would be a transaction of its own."""
        connection = self.connection
        idle = connection.pgconn.transaction_status == TransactionStatus.IDLE
        return self.foreign and connection.autocommit and idle

    def begin(self) -> str:
        """Start what `keep` or `undo` ends: a savepoint, or a transaction where none is open."""
        if self.commits_itself:
            self.executor.command(BEGIN)
            return ""
        self._savepoints += 1
        name = f"assistly_{self._savepoints}"
        self.executor.command(f"SAVEPOINT {name}")
        return name

    def keep(self, name: str) -> None:
        if not name:
            commit(self.executor)
            return
        try:
            self.executor.command(f"RELEASE SAVEPOINT {name}")
        except psycopg.Error:
            self.undo(name)
            raise

    def undo(self, name: str) -> None:
        """What went wrong before is what the caller must hear of: this fails in silence."""
        with suppress(psycopg.Error):
            if not name:
                self.executor.command("ROLLBACK")
                return
            self.executor.command(f"ROLLBACK TO SAVEPOINT {name}")
            self.executor.command(f"RELEASE SAVEPOINT {name}")


def commit(executor: PostgresExecutor) -> None:
    try:
        answer = executor.command("COMMIT")
    except psycopg.Error as error:
        if is_broken(executor.connection) and not nothing_committed(error):
            raise unknown_outcome(error) from error
        raise
    if answer != "COMMIT":
        raise StorageUnavailable("an earlier call failed in this transaction: nothing of it was written")


class PinnedDatabase:
    """A `Database` on one session, for as long as it is open. Usable from several threads in turn."""

    def __init__(self, root: PostgresDatabase, session: Session) -> None:
        self._root = root
        self._session = session
        self.ended = False

    @property
    def dialect(self) -> PostgresDialect:
        return self._root.dialect

    @property
    def clock(self) -> ServerClock:
        return self._root.clock

    @property
    def upkeep(self) -> Upkeep:
        return self._root.upkeep

    def announce(self, announcement: Announcement) -> None:
        """When the caller commits we are not there: then the server tells, whether it is needed or not."""
        if not self._session.foreign:
            self._session.announcement = announcement.merged(self._session.announcement)
        elif self._session.commits_itself:
            self._root.announce(announcement)
        else:
            params = {"channel": channel(self.dialect.schema), "payload": ANY_TIME}
            self.read(lambda executor: executor.rows(NOTIFY, params))

    def may_tell(self) -> bool:
        return False

    def told(self) -> None:
        self._root.told()

    def look(self) -> None:
        self._root.look()

    def read(self, work: Callable[[PostgresExecutor], T]) -> T:
        with self._entered() as executor:
            return work(executor)

    def autocommit(self, work: Callable[[PostgresExecutor], T]) -> T:
        with self._entered(commits=self._session.commits_itself) as executor:
            return work(executor)

    def execute(self, statement: str, params: Params) -> int:
        return self.autocommit(lambda executor: executor.execute(statement, params))

    def in_transaction(self, work: Callable[[PostgresExecutor], T]) -> T:
        with self._entered() as executor:
            name = self._session.begin()
            try:
                result = work(executor)
            except BaseException:
                self._session.undo(name)
                raise
            self._session.keep(name)
            return result

    def rolled_back(self, work: Callable[[PostgresExecutor], T]) -> T:
        with self._entered() as executor:
            name = self._session.begin()
            try:
                return work(executor)
            finally:
                self._session.undo(name)

    def sees_later_commits(self) -> bool:
        if not self._session.foreign:
            return True
        row = self.read(lambda executor: executor.row("SELECT current_setting('transaction_isolation')"))
        return row is not None and row[0] == "read committed"

    def writers(self) -> int:
        return 0

    @contextmanager
    def transaction(self) -> Iterator[PinnedDatabase]:
        with self._entered():
            name = self._session.begin()
        inner = PinnedDatabase(self._root, self._session)
        try:
            yield inner
        except BaseException:
            inner.end()
            if self._session.is_ours:
                with self._session.lock:
                    self._session.undo(name)
            raise
        inner.end()
        with self._entered():
            self._session.keep(name)

    def now(self) -> datetime:
        return self._root.clock.now(lambda: self.read(ask_time))

    def now_ms(self) -> int:
        return self._root.clock.now_ms(lambda: self.read(ask_time))

    def migrate(self) -> list[str]:
        """Nothing is pending: the schema was made ready before the session began."""
        self._check()
        return []

    def bind(self, connection: Any) -> PinnedDatabase:
        return self._root.bind(connection)

    def wait(self, timeout: float) -> datetime | None:
        return self._root.wait(timeout)

    def close(self) -> None:
        self.end()

    def end(self) -> None:
        with self._session.lock if self._session.is_ours else nullcontext():
            self.ended = True

    @contextmanager
    def _entered(self, *, commits: bool = False) -> Iterator[PostgresExecutor]:
        self._check()
        with self._session.lock:
            self._check()
            try:
                yield self._session.executor
            except psycopg.Error as error:
                if commits and is_broken(self._session.connection) and not nothing_committed(error):
                    raise unknown_outcome(error) from error
                raise translate(error) from error

    def _check(self) -> None:
        if self.ended:
            raise StorageClosed("the transaction has ended")
        if not self._session.is_ours:
            raise StorageClosed("the transaction belongs to the process that began it")


def ask_time(executor: Executor) -> tuple[float, datetime]:
    before = ticks()
    moment: datetime
    (moment,) = executor.rows("SELECT clock_timestamp()")[0]
    return before, moment
