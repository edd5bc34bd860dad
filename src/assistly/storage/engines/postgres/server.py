"""The parts of a Postgres database that its stores need besides `Database`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..sql.database import Database
from .clock import ServerClock
from .dialect import PostgresDialect
from .executor import PostgresExecutor
from .identity import Identities
from .limits import Limits
from .pool import Pool
from .wakeups import Wakeups

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """The state of one process for one schema on one server."""

    dialect: PostgresDialect
    clock: ServerClock
    pool: Pool
    wakeups: Wakeups
    limits: Limits
    identities: Identities

    def drop_connections(self) -> None:
        """Replace all connections, after one of them turned out to be of no use: those in use when they come
        back."""
        self.pool.close_idle()
        self.wakeups.reconnect()


class PostgresWork(Database, Protocol):
    """The `Database` of this engine, as its stores use it: `PostgresDatabase` or `PostgresTransaction`."""

    @property
    def server(self) -> Server: ...

    @property
    def dialect(self) -> PostgresDialect: ...

    def read(self, work: Callable[[PostgresExecutor], T]) -> T: ...

    def autocommit(self, work: Callable[[PostgresExecutor], T]) -> T: ...

    def in_transaction(self, work: Callable[[PostgresExecutor], T]) -> T: ...

    def rolled_back(self, work: Callable[[PostgresExecutor], T]) -> T:
        """Call `work` in a transaction or savepoint that is always rolled back, which releases its locks."""

    def notify_of_jobs(self) -> None:
        """Wake the waiting workers after the commit of the current transaction, or now if there is none."""

    def may_notify_at_once(self) -> bool:
        """Whether the next statement should send the notification: it is in autocommit, and the last
        notification was more than 10 ms ago."""

    def sees_later_commits(self) -> bool:
        """Whether each statement sees the commits before it, as in READ COMMITTED."""
