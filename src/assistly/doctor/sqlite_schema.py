"""The schema of an SQLite file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from .findings import Outcome, problem
from .schema import AGAIN, MARGIN, NUMBERS, Attached, Catalogue, Index, Routine, Table, TableColumn

if TYPE_CHECKING:
    from assistly.storage.engines.sqlite.connections import Connection
    from assistly.storage.engines.sqlite.inspection import TableShape

OPTIONAL = frozenset({"idx_queue_conflict"})
"""Indexes that are created on first use."""

_OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
_CHECK = re.compile(r"\bCHECK\s*\(", re.IGNORECASE)
_INDEX = re.compile(r'CREATE (UNIQUE )?INDEX \S+ ON "?\w+"? ?(.*)', re.DOTALL)
_MIGRATIONS = "assistly_migrations"

JOBS, NEWEST = "assistly_queue_jobs", "assistly_queue_newest"
"""The jobs table, and the table that holds the highest id of a removed job."""

INSERT_NEWEST = (
    f"INSERT INTO {NEWEST} SELECT 1, coalesce(max(id), 0) + {MARGIN} FROM {JOBS} WHERE TRUE "
    "ON CONFLICT (one) DO UPDATE SET deleted_id = max(deleted_id, excluded.deleted_id)"
)


def read(connection: Connection, *, with_rows: bool = False) -> Catalogue:
    """Read the catalogue of a file; with `with_rows`, also the rows of its tables."""
    tables: dict[str, Table] = {}
    indexes: dict[str, Index] = {}
    routines: dict[str, Routine] = {}
    for kind, name, table, sql in connection.rows(_OBJECTS):
        if kind == "table" and name.startswith("assistly_"):
            tables[name] = _table(connection, name, sql, with_rows=with_rows)
        elif kind == "index" and (match := _INDEX.fullmatch(sql)):
            # Names in SQLite are case-insensitive; ours are lower case.
            indexes[name.lower()] = Index(name.lower(), table, bool(match[1]), _normal(match[2]))
        elif kind == "trigger":
            routines[name] = Routine(kind, name, table, sql, _normal(sql))
    if NEWEST in tables:
        tables[NEWEST] = tables.pop(NEWEST)  # The statement that recreates it reads another table.
    return Catalogue(tables, indexes, routines)


def of_newest(connection: Connection, found: Catalogue) -> Iterator[Outcome]:
    """Yield a problem if the highest id of a removed job is lost."""
    if NEWEST not in found.tables or "deleted_id" not in found.tables[NEWEST].columns:
        return
    if not connection.rows(f"SELECT 1 FROM {NEWEST} WHERE one = 1 AND deleted_id >= 0"):
        yield problem(f"the table {NEWEST} has lost its row: {NUMBERS}", INSERT_NEWEST)


def _table(connection: Connection, name: str, sql: str, *, with_rows: bool) -> Table:
    from assistly.storage.engines.sqlite.inspection import shape_of

    shape = shape_of(connection, name)
    ((without_rowid, strict),) = connection.rows(
        "SELECT wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = :name", {"name": name}
    )
    forms = [*(["STRICT"] if strict else []), *(["WITHOUT ROWID"] if without_rowid else [])]
    rows = connection.rows(f"SELECT * FROM {name}") if with_rows and name != _MIGRATIONS else []
    return Table(
        name,
        {column[0]: TableColumn(*column) for column in shape.columns},
        shape.key,
        uniques=shape.uniques,
        form=", ".join(forms),
        sql=sql,
        rows=rows,
        attached=[*_checks(name, sql), *_foreign_keys(name, shape)],
    )


def _checks(name: str, sql: str) -> Iterator[Attached]:
    for match in _CHECK.finditer(sql):
        depth, end = 1, match.end()
        while depth and end < len(sql):
            depth += {"(": 1, ")": -1}.get(sql[end], 0)
            end += 1
        yield Attached(
            f"the CHECK ({_normal(sql[match.end() : end - 1])})",
            f"recreate the table {name} without it, unless its owner wants it to refuse records",
            "it may refuse records",
        )


def _foreign_keys(name: str, shape: TableShape) -> Iterator[Attached]:
    for column, table in shape.foreign_keys:
        yield Attached(
            f"a foreign key from {column} to {table}",
            f"recreate the table {name} without it, unless its owner wants what it does",
            "it may refuse records, where PRAGMA foreign_keys is on",
        )


def _normal(text: str) -> str:
    return " ".join(text.split())


class SqliteDdl:
    """A `Ddl`."""

    unchangeable = (
        "SQLite cannot change this in place: run `assistly export` to a file, and `assistly import` it into "
        "a new database"
    )

    def create_table(self, table: Table, indexes: Iterable[Index], routines: Iterable[Routine]) -> str:
        rows = [f"INSERT INTO {table.name} VALUES ({', '.join(map(_literal, row))})" for row in table.rows]
        if table.name == NEWEST:
            rows = [INSERT_NEWEST]
        made = [self.create_index(index) for index in indexes if index.name not in OPTIONAL]
        return ";\n".join([_normal(table.sql), *rows, *made, *map(self.create_routine, routines)])

    def add_column(self, table: Table, column: TableColumn) -> str | None:
        if column.name in table.key or (column.not_null and column.default is None):
            return None
        not_null = " NOT NULL" if column.not_null else ""
        default = "" if column.default is None else f" DEFAULT {column.default}"
        return f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.type}{not_null}{default}"

    def of_numbers(self, table: Table) -> str | None:
        if table.name == NEWEST:
            return NUMBERS
        return AGAIN if "AUTOINCREMENT" in table.sql or table.name == JOBS else None

    def set_not_null(self, table: str, column: str) -> str | None:  # noqa: ARG002
        return None

    def drop_not_null(self, table: str, column: str) -> str | None:  # noqa: ARG002
        return None

    def set_default(self, table: str, column: TableColumn) -> str | None:  # noqa: ARG002
        return None

    def add_key(self, table: Table) -> str | None:  # noqa: ARG002
        return None

    def set_options(self, kind: str, name: str, options: Mapping[str, str]) -> str | None:  # noqa: ARG002
        return None

    def create_index(self, index: Index) -> str:
        unique = "UNIQUE " if index.unique else ""
        return f"CREATE {unique}INDEX {index.name} ON {index.table} {index.body}"

    def replace_index(self, index: Index) -> str:
        return f"DROP INDEX {index.name};\n{self.create_index(index)}"

    def rebuild_index(self, index: Index) -> str:
        return f"REINDEX {index.name}"

    def create_routine(self, routine: Routine) -> str:
        return _normal(routine.sql)

    def replace_routine(self, routine: Routine) -> str:
        return f"DROP TRIGGER {routine.name};\n{_normal(routine.sql)}"


def _literal(value: object) -> str:
    if value is None or isinstance(value, int):
        return "NULL" if value is None else str(value)
    text = str(value).replace("'", "''")
    return f"'{text}'"
