"""Checks of a Postgres server: vacuum, transactions, clock and rights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from assistly.views.text import span

from .checks import Check
from .context import CheckContext
from .findings import NotChecked, Outcome, ok, problem, warning

if TYPE_CHECKING:
    from assistly.storage.engines.postgres.inspection import Inspection

ENGINES = ("postgres",)

LONG = timedelta(minutes=5)
"""A transaction that is open for longer than this keeps dead rows from being removed."""

VERY_LONG = timedelta(hours=1)

ASKEW, FAR_ASKEW = timedelta(seconds=2), timedelta(minutes=1)
"""How far the clock of this machine may be from that of the server."""

_VACUUM = """
SELECT s.last_vacuum, s.last_autovacuum, s.n_dead_tup, greatest(c.reltuples, 0)::float8,
    pg_catalog.current_setting('autovacuum'), pg_catalog.current_setting('track_counts'),
    EXISTS (
        SELECT FROM pg_catalog.pg_options_to_table(c.reloptions)
        WHERE option_name = 'autovacuum_enabled' AND NOT option_value::boolean
    )
FROM pg_catalog.pg_stat_all_tables AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.relid
WHERE s.schemaname = %(schema)s AND s.relname = 'assistly_queue_jobs'
"""
_TRANSACTIONS = """
SELECT pid, coalesce(usename::text, '?'), application_name, state,
    pg_catalog.clock_timestamp() - xact_start AS age
FROM pg_catalog.pg_stat_activity
WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
    AND backend_type = 'client backend' AND pg_catalog.clock_timestamp() - xact_start >= %(long)s
ORDER BY age DESC
"""
_PREPARED = """
SELECT gid, owner::text, pg_catalog.clock_timestamp() - prepared AS age
FROM pg_catalog.pg_prepared_xacts
WHERE database = pg_catalog.current_database() AND pg_catalog.clock_timestamp() - prepared >= %(long)s
ORDER BY age DESC
"""
_SEES_ALL = "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')"
ROLE = """
SELECT pg_catalog.quote_ident(current_user), pg_catalog.pg_is_in_recovery(),
    pg_catalog.has_schema_privilege(%(schema)s, 'USAGE'),
    pg_catalog.current_setting('server_version_num')::int
"""
_EXISTS = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s"
_PRIVILEGES = """
SELECT c.relname::text, c.relkind = 'S',
    ARRAY(
        SELECT p FROM pg_catalog.unnest(
            CASE WHEN c.relkind = 'S' THEN '{USAGE}'
                WHEN c.relname = 'assistly_migrations' THEN '{SELECT}'
                ELSE '{SELECT,INSERT,UPDATE,DELETE}' END::text[]
        ) AS p
        WHERE CASE WHEN c.relkind = 'S' THEN NOT pg_catalog.has_sequence_privilege(c.oid, p)
            ELSE NOT pg_catalog.has_table_privilege(c.oid, p) END
    )
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname LIKE 'assistly\\_%%' AND c.relkind IN ('r', 'p', 'S')
ORDER BY c.oid
"""
_OF_JOBS = """
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = 'assistly_queue_jobs'
"""
_OWNS = f"SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') {_OF_JOBS}"
_MAY_MAINTAIN = f"SELECT pg_catalog.has_table_privilege(c.oid, 'MAINTAIN') {_OF_JOBS}"


def check_vacuum(context: CheckContext) -> Iterable[Outcome]:
    """Whether the jobs table is vacuumed, by the server's autovacuum or by workers."""
    vacuumed, autovacuumed, _, _, autovacuum, counts, is_off = _statistics(context)
    found = []
    if autovacuum != "on" or counts != "on":
        found.append(
            warning(
                f"the server's autovacuum is off (autovacuum = {autovacuum}, track_counts = {counts})",
                "ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; then "
                "SELECT pg_reload_conf()",
            )
        )
    if is_off:
        table = f"{context.server().dialect.quoted_schema}.assistly_queue_jobs"
        found.append(
            warning("autovacuum is off for the jobs table", f"ALTER TABLE {table} RESET (autovacuum_enabled)")
        )
    by_hand = "never" if vacuumed is None else f"{span(context.now - vacuumed)} ago"
    by_server = "never" if autovacuumed is None else f"{span(context.now - autovacuumed)} ago"
    return found or [ok(f"last vacuum by workers or by hand: {by_hand}; by the server: {by_server}")]


def check_dead_rows(context: CheckContext) -> Iterable[Outcome]:
    """Whether dead rows in the jobs table slow claims down."""
    from assistly.storage.engines.postgres.maintenance import dead_rows_worth_a_vacuum

    _, _, dead, rows, *_ = _statistics(context)
    reason = f"about {dead:,} dead rows in the jobs table, and {rows:,.0f} live ones"
    if dead < dead_rows_worth_a_vacuum(rows):
        return [ok(reason)]
    return [
        warning(
            f"{reason}: each claim reads past them",
            "assistly maintain, now, and from cron if no worker runs; the checks long-transactions and "
            "rights say what may prevent it",
        )
    ]


_Statistics = tuple[datetime | None, datetime | None, int, float, str, str, bool]


def _statistics(context: CheckContext) -> _Statistics:
    server = context.server()
    found = server.rows(_VACUUM, {"schema": server.dialect.schema})
    if not found:
        raise NotChecked("the jobs table is missing")
    row: _Statistics = found[0]
    return row


def check_long_transactions(context: CheckContext) -> Iterable[Outcome]:
    """Whether a long-open transaction keeps dead rows from being removed."""
    server = context.server()
    found = [*_open_transactions(server), *_prepared_transactions(server)]
    if found:
        return found
    of_whom = "" if server.value(_SEES_ALL) else " of this role, which may not see others (pg_read_all_stats)"
    return [ok(f"no transaction{of_whom} is open for longer than {span(LONG)}")]


def _open_transactions(server: Inspection) -> Iterator[Outcome]:
    for pid, user, application, state, age in server.rows(_TRANSACTIONS, {"long": LONG}):
        of_what = f" ({application})" if application else ""
        yield _long(
            f"a transaction of {user}{of_what} is open for {span(age)}, and its session is {state or '?'}",
            age,
            f"end it in its program, or with SELECT pg_terminate_backend({pid})",
        )


def _prepared_transactions(server: Inspection) -> Iterator[Outcome]:
    for name, owner, age in server.rows(_PREPARED, {"long": LONG}):
        quoted = name.replace("'", "''")
        yield _long(
            f"a prepared transaction of {owner} has been neither committed nor rolled back for {span(age)}",
            age,
            f"ask its owner, then COMMIT PREPARED '{quoted}' or ROLLBACK PREPARED '{quoted}'",
        )


def _long(reason: str, age: timedelta, mend: str) -> Outcome:
    kind = problem if age >= VERY_LONG else warning
    return kind(f"{reason}: it keeps dead rows from being removed, and may hold locks", mend)


def check_clock(context: CheckContext) -> Iterable[Outcome]:
    """Whether the clocks of this machine and of the server agree. The storage uses that of the server."""
    offsets = [_offset(context.server()) for _ in range(3)]
    offset, error = min(offsets, key=lambda each: each[1])
    shown = abs(offset.total_seconds())
    side = "ahead of" if offset > timedelta(0) else "behind"
    reason = f"the server's clock is {shown:.3f} s {side} that of this machine"
    if abs(offset) - error < ASKEW:
        return [ok(reason)]
    kind = problem if abs(offset) - error >= FAR_ASKEW else warning
    return [
        kind(
            f"{reason}: times from applications, such as `scheduled_at`, are off by as much",
            "synchronize both clocks with NTP",
        )
    ]


def machine_time() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


def _offset(server: Inspection) -> tuple[timedelta, timedelta]:
    """How far the server's clock is ahead, and the maximum error of that."""
    before = machine_time()
    at: datetime = server.value("SELECT pg_catalog.clock_timestamp()")
    round_trip = machine_time() - before
    return at - (before + round_trip / 2), round_trip / 2


def check_rights(context: CheckContext) -> Iterable[Outcome]:
    """Whether the role has the rights that the storage needs."""
    server, schema = context.server(), context.server().dialect.schema
    if not server.value(_EXISTS, {"schema": schema}):
        raise NotChecked(f'there is no schema "{schema}"')
    ((role, is_standby, may_use, version),) = server.rows(ROLE, {"schema": schema})
    found = [*_missing_rights(server, role, may_use=may_use)]
    if is_standby:
        found.append(
            problem(
                "the server is a standby, which accepts no writes",
                "name the primary in DATABASE_URL, or all hosts with target_session_attrs=read-write",
            )
        )
    if not found and context.settings.vacuum == "worker":
        found += _maintenance(server, role, version)
    return found or [ok(f"the role {role} has the rights that the storage needs")]


def _missing_rights(server: Inspection, role: str, *, may_use: bool) -> Iterator[Outcome]:
    from assistly.storage.engines.postgres.dialect import quote

    schema = server.dialect.quoted_schema
    if not may_use:
        yield problem(
            f"the role {role} may not use the schema {server.dialect.schema}",
            f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        )
    for name, is_sequence, missing in server.rows(_PRIVILEGES, {"schema": server.dialect.schema}):
        if missing:
            rights = ", ".join(missing)
            kind = "SEQUENCE " if is_sequence else ""
            yield problem(
                f"the role {role} lacks {rights} on {name}",
                f"GRANT {rights} ON {kind}{schema}.{quote(name)} TO {role}",
            )


def _maintenance(server: Inspection, role: str, version: int) -> Iterator[Outcome]:
    has_right = version >= 170_000
    rows = server.rows(_MAY_MAINTAIN if has_right else _OWNS, {"schema": server.dialect.schema})
    if rows in ([], [(True,)]):
        return
    grant = f"GRANT MAINTAIN ON {server.dialect.quoted_schema}.assistly_queue_jobs TO {role}"
    yield warning(
        f"the role {role} may not vacuum the jobs table, so only autovacuum does",
        grant if has_right else "let the owner of the table run `assistly maintain` from cron",
    )


CHECKS = (
    Check("vacuum", check_vacuum, ENGINES),
    Check("dead-rows", check_dead_rows, ENGINES),
    Check("long-transactions", check_long_transactions, ENGINES),
    Check("clock", check_clock, ENGINES),
    Check("rights", check_rights, ENGINES),
)
