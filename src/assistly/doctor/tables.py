"""Checks of the tables: what the migrations create, names in use by others, and what should be pruned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from assistly.storage.engines.sql.migrations import discover
from assistly.storage.engines.sql.objects import indexes_of, tables_of
from assistly.storage.engines.sql.retention import PRUNED_TABLES
from assistly.views.text import span

from . import levels, sqlite_schema
from .checks import Check
from .context import CheckContext
from .findings import NotChecked, Outcome, ok, problem, warning
from .schema import Catalogue

if TYPE_CHECKING:
    from assistly.storage.engines.sql.dialect import Dialect

ENGINES = ("sqlite", "postgres")

BEHIND = timedelta(hours=1)
"""How long records may stay after they should be pruned: workers prune once a minute."""

_PRUNED_AT = "SELECT {f}max(pruned_at) FROM {t}retention"


_RELATIONS = """
SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
    WHEN 'c' THEN 'type' ELSE 'table' END, c.relname::text
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = ANY (%(names)s::text[]) AND c.relkind NOT IN ('i', 'I')
ORDER BY c.oid
"""


def check_schema(context: CheckContext) -> Iterable[Outcome]:
    """Whether the tables match the applied migrations."""
    applied, known = context.applied(), discover(context.engine)
    names = {*applied, *(each.name for each in levels.unrecorded(context, known, applied))}
    made = [migration for migration in known if migration.name in names]
    if not made:
        raise NotChecked("no migration was applied")
    stored = levels.found(context)
    found = [*levels.schema_differences(context, made, stored), *_of_numbers(context, stored)]
    return found or [ok(f"the tables match the {len(made)} applied migrations")]


def _of_numbers(context: CheckContext, stored: Catalogue) -> Iterable[Outcome]:
    if context.engine == "sqlite":
        return sqlite_schema.of_newest(context.file_connection(), stored)
    from .postgres_sequences import of_sequences

    return of_sequences(context.server(), levels.namespace_of(context))


def check_foreign_indexes(context: CheckContext) -> Iterable[Outcome]:
    """Whether something else has the name of one of our indexes, which then cannot be created."""
    is_file = context.engine == "sqlite"
    catalogue = levels.found(context)
    known = discover(context.engine)
    names = {index.name for each in known for index in indexes_of(each.sql)}
    tables = {table.name for each in known for table in tables_of(each.sql)}
    others = [
        index for index in catalogue.indexes.values() if index.name in names and index.table not in tables
    ]
    relations = [*_relations(context, names)]
    if not others and not relations:
        return [ok("nothing else has the name of one of our indexes")]
    return [
        *(
            problem(
                f"the {kind} {name} has the name of one of our indexes, which cannot be created",
                f"give it another name, such as {name}_of_others",
            )
            for kind, name in relations
        ),
        *(
            problem(
                f"the index {index.name} on the table {index.table} has the name of one of ours",
                f"give it another name: DROP INDEX {index.name}, and create it again as "
                f"{index.name}_{index.table}"
                if is_file
                else _renamed(context, index.name, index.table),
            )
            for index in others
        ),
    ]


def _relations(context: CheckContext, names: Collection[str]) -> Iterable[tuple[str, str]]:
    """The kinds and names of tables, views and so on with one of these names."""
    if context.engine == "sqlite":
        rows = context.file_connection().rows("SELECT type, name FROM sqlite_master WHERE type <> 'index'")
        return [(kind, name) for kind, name in rows if kind != "trigger" and name.lower() in names]
    server = context.server()
    return server.rows(_RELATIONS, {"schema": server.dialect.schema, "names": sorted(names)})


def _renamed(context: CheckContext, name: str, table: str) -> str:
    from assistly.storage.engines.postgres.dialect import quote

    schema = context.server().dialect.quoted_schema
    return f"ALTER INDEX {schema}.{quote(name)} RENAME TO {quote(f'{name}_{table}'[:63])}"


def check_prune(context: CheckContext) -> Iterable[Outcome]:
    """Whether records past their RETENTION_ settings are deleted."""
    rows, dialect = _reader(context)
    ((stamp,),) = rows(_PRUNED_AT.format(f=dialect.f, t=dialect.t))
    pruned_at = None if stamp is None else dialect.time(stamp)
    last = "never pruned" if pruned_at is None else f"pruned {_ago(context.now - pruned_at)}"
    due = {kind: late for kind, late in _overdue(context, rows, dialect) if late > timedelta(0)}
    is_old = pruned_at is None or context.now - pruned_at > BEHIND
    behind = [
        f"{kind} (for {span(late)})" for kind, late in due.items() if late > BEHIND or (is_old and late)
    ]
    over = [f"{kind} (above {cap:,})" for kind, cap in _over_caps(context, rows, dialect)] if is_old else []
    if not behind and not over:
        return [ok(f"{last}; nothing is overdue for deletion")]
    return [
        warning(
            f"{last}; overdue for deletion: {', '.join([*behind, *over])}",
            "assistly prune, now, and from cron if no worker runs",
        )
    ]


_Rows = Callable[[str], Sequence[tuple[Any, ...]]]


def _reader(context: CheckContext) -> tuple[_Rows, Dialect]:
    """A function that reads rows, and the dialect of its statements."""
    if context.engine == "postgres":
        context.require_unlocked()
        server = context.server()
        return server.table_rows, server.dialect
    from assistly.storage.engines.sqlite.dialect import DIALECT

    return context.file_connection().rows, DIALECT


def _overdue(context: CheckContext, rows: _Rows, dialect: Dialect) -> Iterable[tuple[str, timedelta]]:
    """How long the oldest record of each kind is overdue for deletion."""
    policy = context.settings.retention_policy()
    for kind, table in PRUNED_TABLES.items():
        age: timedelta | None = getattr(policy, f"{kind}_age")
        if age is None:
            continue
        name = f"{dialect.t}{table.name}"
        ((oldest,),) = rows(f"SELECT {dialect.f}min({table.time}) FROM {name} WHERE {table.condition}")
        if oldest is not None:
            at = _from_milliseconds(oldest) if kind == "nonces" else dialect.time(oldest)
            yield kind, context.now - at - age


def _from_milliseconds(value: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=value)


def _over_caps(context: CheckContext, rows: _Rows, dialect: Dialect) -> Iterable[tuple[str, int]]:
    policy = context.settings.retention_policy()
    for kind, cap in (("approvals", policy.approvals_cap), ("idempotency", policy.idempotency_cap)):
        name = f"{dialect.t}{kind}"
        if rows(f"SELECT 1 FROM {name} LIMIT 1 OFFSET {cap:d}"):
            yield kind, cap


def _ago(age: timedelta) -> str:
    return f"{span(age)} ago"


CHECKS = (
    Check("foreign-indexes", check_foreign_indexes, ENGINES),
    Check("schema", check_schema, ENGINES),
    Check("prune", check_prune, ENGINES),
)
