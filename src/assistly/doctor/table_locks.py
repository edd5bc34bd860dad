"""The locks on whole tables of a Postgres schema."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from assistly.storage.engines.postgres.inspection import Inspection

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
    """A lock that blocks a table, or a session that waits for one: readers queue behind it.

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
