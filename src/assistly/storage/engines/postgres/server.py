"""What the stores need of Postgres besides the statements that all SQL engines have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..sql.database import Database
from .clock import ServerClock
from .dialect import PostgresDialect
from .executor import PostgresExecutor
from .pool import Pool
from .wakeups import Wakeups

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """One schema on one server, and what a process has to do with it."""

    dialect: PostgresDialect
    clock: ServerClock
    pool: Pool
    wakeups: Wakeups


class PostgresWork(Database, Protocol):
    """A `Database` of this engine: the one that borrows connections, or the one of a transaction."""

    @property
    def server(self) -> Server: ...

    @property
    def dialect(self) -> PostgresDialect: ...

    def read(self, work: Callable[[PostgresExecutor], T]) -> T: ...

    def autocommit(self, work: Callable[[PostgresExecutor], T]) -> T: ...

    def in_transaction(self, work: Callable[[PostgresExecutor], T]) -> T: ...

    def rolled_back(self, work: Callable[[PostgresExecutor], T]) -> T:
        """A transaction, or a savepoint, that is always undone: locks taken in it are free again."""

    def notify_of_jobs(self) -> None:
        """Wake those who wait for jobs, once what this database has written is committed."""

    def may_notify_at_once(self) -> bool:
        """Whether the next statement is to do so itself: it commits itself, and none did just now."""

    def sees_later_commits(self) -> bool:
        """Whether each statement sees what others committed before it. Not in REPEATABLE READ."""
