"""Locks of other sessions on whole tables, which everything waits for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from assistly.views.jobs import span

from .checks import Check
from .context import CheckContext
from .findings import Outcome, ok, problem, warning

if TYPE_CHECKING:
    from assistly.storage.engines.postgres.inspection import Inspection

ENGINES = ("postgres",)

LONG = timedelta(seconds=10)
"""Calls of the storage wait for that long, and fail then."""

_LOCKS = """
SELECT c.relname::text, l.pid, l.granted, coalesce(a.usename::text, '?'), coalesce(a.application_name, ''),
    coalesce(a.state, '?'), coalesce(pg_catalog.clock_timestamp() - a.query_start, interval '0'),
    coalesce(pg_catalog.clock_timestamp() - a.xact_start, interval '0'),
    CASE WHEN l.granted OR l.pid IS NULL THEN '{}' ELSE pg_catalog.pg_blocking_pids(l.pid) END
FROM pg_catalog.pg_locks AS l
JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    AND n.nspname = %(schema)s AND c.relname LIKE 'assistly\\_%%' AND c.relkind IN ('r', 'p')
    AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
ORDER BY l.granted DESC, c.oid
"""


class TableLock(NamedTuple):
    """A lock that keeps everybody from a table, or a session that waits for one: readers queue behind it.

    `pid` is None for a prepared transaction. `blockers` are the sessions that it waits for.
    """

    table: str
    pid: int | None
    granted: bool
    user: str
    application: str
    state: str
    query_age: timedelta
    transaction_age: timedelta
    blockers: list[int]


def table_locks(server: Inspection) -> list[TableLock]:
    """The locks on whole tables that others hold or wait for now."""
    return [TableLock(*row) for row in server.rows(_LOCKS, {"schema": server.dialect.schema})]


def check_locks(context: CheckContext) -> Iterable[Outcome]:
    """Whether a session keeps everybody from a table. Checks that would wait for it are not made."""
    return [_of_lock(lock) for lock in context.table_locks] or [ok("no session keeps others from a table")]


def _of_lock(lock: TableLock) -> Outcome:
    if lock.pid is None:
        return problem(
            f"a prepared transaction keeps everybody from {lock.table}",
            "see the check long-transactions, or SELECT gid FROM pg_prepared_xacts",
        )
    of_what = f" ({lock.application})" if lock.application else ""
    holds = (
        f"keeps everybody from {lock.table}"
        if lock.granted
        else f"waits for {', '.join(map(str, lock.blockers)) or 'others'} to lock {lock.table}, and others "
        "wait behind it"
    )
    kind = problem if lock.transaction_age >= LONG else warning
    return kind(
        f"the session {lock.pid} of {lock.user}{of_what} {holds}: its transaction is open for "
        f"{span(lock.transaction_age)}, its last query began {span(lock.query_age)} ago, its state is "
        f"{lock.state}",
        f"end it in its program, or with SELECT pg_terminate_backend({lock.pid})",
    )


FIRST = (Check("locks", check_locks, ENGINES),)
