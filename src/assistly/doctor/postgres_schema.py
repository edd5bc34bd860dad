"""The schema of a Postgres database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from assistly.storage.engines.postgres.dialect import quote

from .postgres_attached import attached
from .postgres_sequences import raised
from .schema import AGAIN, Catalogue, Index, Routine, Table, TableColumn

if TYPE_CHECKING:
    from assistly.storage.engines.postgres.inspection import Inspection

_TABLES = """
SELECT c.relname::text, coalesce(c.reloptions, '{}')::text[], k.relname::text,
    coalesce(k.reloptions, '{}')::text[],
    ARRAY(
        SELECT a.attname::text
        FROM pg_catalog.unnest(p.conkey) WITH ORDINALITY AS n (number, place)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = n.number
        ORDER BY n.place
    )
FROM pg_catalog.pg_class AS c
LEFT JOIN pg_catalog.pg_constraint AS p ON p.conrelid = c.oid AND p.contype = 'p'
LEFT JOIN pg_catalog.pg_class AS k ON k.oid = p.conindid
WHERE c.relnamespace = %(namespace)s::bigint::oid
    AND c.relkind IN ('r', 'p') AND c.relname LIKE 'assistly\\_%%'
ORDER BY c.oid
"""
_COLUMNS = """
SELECT c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attcollation <> t.typcollation THEN l.collname::text END, a.attnotnull,
    CASE WHEN a.attidentity <> '' THEN 'identity' ELSE pg_catalog.pg_get_expr(d.adbin, d.adrelid) END
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = %(namespace)s::bigint::oid
    AND c.relkind IN ('r', 'p') AND c.relname LIKE 'assistly\\_%%'
    AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.oid, a.attnum
"""
_INDEXES = """
SELECT i.relname::text, c.relname::text, x.indisunique, x.indisvalid, coalesce(i.reloptions, '{}')::text[],
    pg_catalog.pg_get_indexdef(i.oid)
FROM pg_catalog.pg_index AS x
JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_class AS c ON c.oid = x.indrelid
WHERE i.relnamespace = %(namespace)s::bigint::oid AND NOT x.indisprimary
ORDER BY i.oid
"""
_FUNCTIONS = """
SELECT p.proname::text, pg_catalog.pg_get_functiondef(p.oid)
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = %(namespace)s::bigint::oid
    AND p.prokind IN ('f', 'p') AND p.proname LIKE 'assistly\\_%%'
ORDER BY p.oid
"""
_TRIGGERS = """
SELECT g.tgname::text, c.relname::text, pg_catalog.pg_get_triggerdef(g.oid)
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_class AS c ON c.oid = g.tgrelid
WHERE c.relnamespace = %(namespace)s::bigint::oid AND c.relname LIKE 'assistly\\_%%' AND NOT g.tgisinternal
ORDER BY g.oid
"""
NAMESPACE = """
SELECT pg_catalog.min(oid::bigint) FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s
"""
_NAME = """
SELECT pg_catalog.quote_ident(nspname::text) FROM pg_catalog.pg_namespace
WHERE oid = %(namespace)s::bigint::oid
"""

_OPTIONS = re.compile(r" WITH \([^)]*\)")
_SERIAL = re.compile(r"nextval\('(?:[^']*\.)?\"?(?P<sequence>[^'\".]+)\"?'::regclass\)")
_SERIAL_DEFAULT = re.compile(r"nextval\('([^']+)'\)")
_SERIAL_TYPES = {"bigint": "bigserial", "integer": "serial", "smallint": "smallserial"}


def read(server: Inspection, namespace: int) -> Catalogue:
    """Read the catalogue of the schema with this oid. Names of objects in it are unqualified."""
    params = {"namespace": namespace}
    quoted = f"{server.value(_NAME, params)}."

    def unqualified(text: str) -> str:
        return text.replace(quoted, "")

    columns: dict[str, dict[str, TableColumn]] = {}
    for table, name, type, collation, not_null, default in server.rows(_COLUMNS, params):
        full_type = type if collation is None else f'{type} COLLATE "{collation}"'
        expression = None if default is None else _default(unqualified(default))
        columns.setdefault(table, {})[name] = TableColumn(name, full_type, not_null, expression)
    others = attached(server, namespace, server.dialect.quoted_schema)
    tables = {
        name: Table(
            name,
            columns.get(name, {}),
            tuple(key),
            options=_options(options),
            key_name=key_name or "",
            key_options=_options(key_options),
            attached=others.get(name, ()),
        )
        for name, options, key_name, key_options, key in server.rows(_TABLES, params)
    }
    indexes = {
        name: Index(name, table, unique, _body(unqualified(definition)), _options(options), valid)
        for name, table, unique, valid, options, definition in server.rows(_INDEXES, params)
    }
    routines = {
        name: Routine("function", name, None, unqualified(sql), unqualified(sql))
        for name, sql in server.rows(_FUNCTIONS, params)
    }
    routines |= {
        name: Routine("trigger", name, table, unqualified(sql), unqualified(sql))
        for name, table, sql in server.rows(_TRIGGERS, params)
    }
    return Catalogue(tables, indexes, routines)


def _default(expression: str) -> str:
    """The expression; nextval() has the name of the sequence without its schema."""
    return _SERIAL.sub(lambda match: f"nextval('{match['sequence']}')", expression)


def _body(definition: str) -> str:
    return _OPTIONS.sub("", definition.partition(" USING ")[2])


def _options(given: Iterable[str]) -> dict[str, str]:
    return dict(option.split("=", 1) for option in given)


class PostgresDdl:
    """A `Ddl`. Statements that cannot run in a transaction do not block writers."""

    unchangeable = (
        "no single statement fixes this safely: run `assistly export` to a file, and `assistly import` it "
        "into a new schema (STORAGE_SCHEMA)"
    )

    def __init__(self, quoted_schema: str) -> None:
        self._schema = quoted_schema

    def create_table(self, table: Table, indexes: Iterable[Index], routines: Iterable[Routine]) -> str:
        lines = [self._definition(column) for column in table.columns.values()]
        if table.key:
            lines.append(f"PRIMARY KEY ({', '.join(map(quote, table.key))})")
        options = f" WITH ({_assigned(table.options)})" if table.options else ""
        create = f"CREATE TABLE {self._named(table.name)} ({', '.join(lines)}){options}"
        made = [self._create_index(index, concurrently=False) for index in indexes]
        if table.key_options:
            made.insert(0, self.set_options("INDEX", table.key_name, table.key_options))
        return ";\n".join([create, *made, *map(self.create_routine, routines)])

    def add_column(self, table: Table, column: TableColumn) -> str | None:
        if column.name in table.key or (column.not_null and column.default is None):
            return None
        return f"ALTER TABLE {self._named(table.name)} ADD COLUMN {self._definition(column)}"

    def of_numbers(self, table: Table) -> str | None:
        defaults = [column.default or "" for column in table.columns.values()]
        return AGAIN if any(map(_SERIAL_DEFAULT.fullmatch, defaults)) else None

    def set_not_null(self, table: str, column: str) -> str | None:
        return f"{self._alter(table, column)} SET NOT NULL"

    def drop_not_null(self, table: str, column: str) -> str | None:
        return f"{self._alter(table, column)} DROP NOT NULL"

    def set_default(self, table: str, column: TableColumn) -> str | None:
        default = column.default or "NULL"
        serial = _SERIAL_DEFAULT.fullmatch(default)
        if serial is None:
            return f"{self._alter(table, column.name)} SET DEFAULT {default}"
        sequence, name = self._named(serial[1]), quote(column.name)
        highest = f"SELECT pg_catalog.max({name}) FROM {self._named(table)}"
        return ";\n".join(
            (
                f"CREATE SEQUENCE IF NOT EXISTS {sequence} OWNED BY {self._named(table)}.{name}",
                raised(sequence, highest),
                f"{self._alter(table, column.name)} SET DEFAULT nextval('{sequence}')",
            )
        )

    def add_key(self, table: Table) -> str | None:
        return f"ALTER TABLE {self._named(table.name)} ADD PRIMARY KEY ({', '.join(map(quote, table.key))})"

    def set_options(self, kind: str, name: str, options: Mapping[str, str]) -> str:
        return f"ALTER {kind} {self._named(name)} SET ({_assigned(options)})"

    def create_index(self, index: Index) -> str:
        return self._create_index(index, concurrently=True)

    def replace_index(self, index: Index) -> str:
        return f"DROP INDEX CONCURRENTLY {self._named(index.name)};\n{self.create_index(index)}"

    def rebuild_index(self, index: Index) -> str:
        return f"REINDEX INDEX CONCURRENTLY {self._named(index.name)}"

    def create_routine(self, routine: Routine) -> str:
        if routine.kind == "function":
            return routine.sql.replace(
                f"FUNCTION {routine.name}(", f"FUNCTION {self._named(routine.name)}(", 1
            )
        named = self._named(routine.table or "")
        sql = routine.sql.replace(f" ON {routine.table} ", f" ON {named} ", 1)
        return re.sub(
            r" EXECUTE FUNCTION (assistly_\w+)\(", lambda m: f" EXECUTE FUNCTION {self._named(m[1])}(", sql
        )

    def replace_routine(self, routine: Routine) -> str:
        if routine.kind == "function":
            return self.create_routine(routine)
        drop = f"DROP TRIGGER {quote(routine.name)} ON {self._named(routine.table or '')}"
        return f"{drop};\n{self.create_routine(routine)}"

    def _create_index(self, index: Index, *, concurrently: bool) -> str:
        unique = "UNIQUE " if index.unique else ""
        safely = "CONCURRENTLY " if concurrently else ""
        body, has_condition, condition = index.body.partition(" WHERE ")
        options = f" WITH ({_assigned(index.options)})" if index.options else ""
        return (
            f"CREATE {unique}INDEX {safely}{quote(index.name)} ON {self._named(index.table)} USING "
            f"{body}{options}{has_condition}{condition}"
        )

    def _definition(self, column: TableColumn) -> str:
        serial = column.default is not None and column.default.startswith("nextval('")
        if serial and column.type in _SERIAL_TYPES:
            return f"{quote(column.name)} {_SERIAL_TYPES[column.type]} NOT NULL"
        default = "" if column.default is None else f" DEFAULT {column.default}"
        return f"{quote(column.name)} {column.type}{default}{' NOT NULL' if column.not_null else ''}"

    def _alter(self, table: str, column: str) -> str:
        return f"ALTER TABLE {self._named(table)} ALTER COLUMN {quote(column)}"

    def _named(self, name: str) -> str:
        return f"{self._schema}.{quote(name)}"


def _assigned(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{option} = {value}" for option, value in options.items())
