"""Refuses a schema in which somebody else's object has a name that this package uses.

`CREATE … IF NOT EXISTS` would silently use it, and `ALTER` and `DROP` would change it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ConfigurationError
from ..sql.migrations import Migration, discover
from ..sql.objects import MadeTable, indexes_of, tables_of
from .executor import PostgresExecutor

MIGRATIONS = MadeTable("assistly_migrations", (("name", "text"), ("checksum", "text")), may_exist=True)

# The catalogs are read instead of using to_regclass and casts, which read a cache: that may lack what was
# committed while this transaction waited for the lock on migrations.
_RELATIONS = """
SELECT c.relname::text, c.relkind::text, t.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
LEFT JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid
WHERE n.nspname = %(schema)s AND c.relname = ANY(%(names)s::text[])
ORDER BY c.relname
"""
_TYPES = """
SELECT t.typname::text, t.typtype::text, NULL, pg_catalog.pg_get_userbyid(t.typowner)::text
FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
WHERE n.nspname = %(schema)s AND t.typname = ANY(%(names)s::text[]) AND t.typrelid = 0
ORDER BY t.typname
"""
_COLUMNS = """
SELECT
    a.attname::text,
    t.typname::text,
    EXISTS (
        SELECT FROM pg_catalog.pg_index AS i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indnkeyatts = 1
            AND i.indkey[0] = a.attnum
    )
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND a.attnum > 0 AND NOT a.attisdropped
"""
_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "i": "index",
    "I": "partitioned index",
    "v": "view",
    "m": "materialized view",
    "S": "sequence",
    "f": "foreign table",
    "c": "composite type",
}
_TYPE_NAMES = {"bigserial": "int8", "bigint": "int8", "integer": "int4", "smallint": "int2"}


def refuse_conflicts(executor: PostgresExecutor, schema: str, missing: Sequence[Migration]) -> None:
    """Raise ConfigurationError if an object that a missing migration uses exists, and is somebody else's."""
    tables = {table.name: table for each in missing for table in tables_of(each.sql)}
    indexes = {index.name: index.table for each in missing for index in indexes_of(each.sql)}
    ours = {table.name for each in discover("postgres") for table in tables_of(each.sql)}
    params = {"schema": schema, "names": [*tables, *indexes]}
    for name, kind, of_table, owner in executor.rows(_RELATIONS, params):
        if name in tables:
            refuse_another_table(executor, schema, tables[name], kind, owner)
        elif kind != "i" or of_table not in ours or of_table != (indexes[name] or of_table):
            what = _KINDS.get(kind, "relation") if of_table is None else f'index of the table "{of_table}"'
            raise _conflict(schema, name, what, owner)
    for name, _, _, owner in executor.rows(_TYPES, {"schema": schema, "names": [*tables]}):
        raise _conflict(schema, name, "type", owner)


def existing_tables(executor: PostgresExecutor, schema: str) -> set[str]:
    """The tables that migrations make and that the schema has."""
    names = [table.name for each in discover("postgres") for table in tables_of(each.sql)]
    rows = executor.rows(_RELATIONS, {"schema": schema, "names": names})
    return {name for name, kind, _, _ in rows if kind == "r"}


def find_migrations_table(executor: PostgresExecutor, schema: str) -> bool:
    """Whether the table of applied migrations exists. Raises ConfigurationError if it is somebody else's."""
    rows = executor.rows(_RELATIONS, {"schema": schema, "names": [MIGRATIONS.name]})
    for _, kind, _, owner in rows:
        refuse_another_table(executor, schema, MIGRATIONS, kind, owner)
    return bool(rows)


def refuse_another_table(
    executor: PostgresExecutor, schema: str, table: MadeTable, kind: str, owner: str
) -> None:
    """Raise ConfigurationError unless a relation of that name is a table with these columns and that key."""
    if kind != "r" or not table.may_exist:
        raise _conflict(schema, table.name, _KINDS.get(kind, "relation"), owner)
    columns = executor.rows(_COLUMNS, {"schema": schema, "name": table.name})
    problem = _difference(table, columns)
    if problem is not None:
        raise _conflict(schema, table.name, f"table {problem}", owner)


def _difference(table: MadeTable, found: Sequence[tuple[str, str, bool]]) -> str | None:
    types = {name: type for name, type, _ in found}
    for name, type in table.columns:
        if name not in types:
            return f'without the column "{name}"'
        if types[name] != _TYPE_NAMES.get(type, type):
            return f'whose column "{name}" has the type {types[name]}, not {type},'
    key = table.columns[0][0]
    if not any(is_key for name, _, is_key in found if name == key):
        return f'without the key "{key}"'
    return None


def _conflict(schema: str, name: str, what: str, owner: str) -> ConfigurationError:
    return ConfigurationError(
        f'the schema "{schema}" has a {what} named "{name}" (owner: {owner}), not part of assistly: '
        "nothing was changed. Set STORAGE_SCHEMA to a schema of its own"
    )
