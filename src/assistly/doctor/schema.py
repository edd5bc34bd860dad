"""Compares the tables, indexes, triggers and functions of a database with those that it should have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .findings import Outcome, problem, warning

# The storage writes all times itself. Databases of the original system may lack this default.
_NOW = "now()"

MARGIN = 1000
"""How many numbers a repair skips: the highest ones may have belonged to removed records."""

NUMBERS = (
    f"the numbers of removed records are not known, so {MARGIN:,} are skipped. Raise this if more were "
    "removed recently: anybody who kept such a number would confuse a new record with the old one"
)

AGAIN = "numbers start at 1 again: anybody who kept an old number would confuse a new record with the old one"

LOST = "restore the table from a backup: the values of the column are lost, and must not be invented"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column. `type` includes a collation other than that of the type; `default` is an expression."""

    name: str
    type: str
    not_null: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class Attached:
    """What somebody attached to a table: a constraint, a rule and so on.

    `text` is compared. `mend` detaches it, and `effect` says what it does to the storage.
    """

    text: str
    mend: str
    effect: str
    is_severe: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `key` are the columns of its primary key, `uniques` those of its unique constraints.

    `form` cannot be changed later, such as STRICT. `options` are storage parameters, `key_options` those of
    the index of the key, which is named `key_name`. `rows` are the rows that the migrations insert.
    """

    name: str
    columns: Mapping[str, TableColumn]
    key: tuple[str, ...]
    uniques: frozenset[tuple[str, ...]] = frozenset()
    form: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    key_name: str = ""
    key_options: Mapping[str, str] = field(default_factory=dict)
    sql: str = ""
    rows: Sequence[tuple[object, ...]] = ()
    attached: Sequence[Attached] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """An index without a constraint. `body` is what follows the name of the table, without options."""

    name: str
    table: str
    unique: bool
    body: str
    options: Mapping[str, str] = field(default_factory=dict)
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Routine:
    """A trigger or a function. `kind` says which; `sql` creates it, `body` is compared."""

    kind: str
    name: str
    table: str | None
    sql: str
    body: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a schema holds, by name."""

    tables: Mapping[str, Table]
    indexes: Mapping[str, Index]
    routines: Mapping[str, Routine]


class Ddl(Protocol):
    """Writes the statements that repair a difference. None: there is no safe one."""

    def create_table(self, table: Table, indexes: Iterable[Index], routines: Iterable[Routine]) -> str:
        """Create a missing table, with what belongs to it."""

    def add_column(self, table: Table, column: TableColumn) -> str | None:
        """Add a missing column."""

    def set_not_null(self, table: str, column: str) -> str | None:
        """Make a column NOT NULL. The statement fails, and changes nothing, if a NULL is stored."""

    def drop_not_null(self, table: str, column: str) -> str | None:
        """Allow NULL in a column."""

    def set_default(self, table: str, column: TableColumn) -> str | None:
        """Give a column the default of `column`."""

    def add_key(self, table: Table) -> str | None:
        """Add the missing primary key."""

    def set_options(self, kind: str, name: str, options: Mapping[str, str]) -> str | None:
        """Set storage parameters of a TABLE or an INDEX."""

    def create_index(self, index: Index) -> str:
        """Create a missing index."""

    def replace_index(self, index: Index) -> str:
        """Recreate an index that has another definition."""

    def rebuild_index(self, index: Index) -> str:
        """Rebuild an invalid index."""

    def create_routine(self, routine: Routine) -> str:
        """Create a missing trigger or function."""

    def replace_routine(self, routine: Routine) -> str:
        """Recreate a trigger or function that has another definition."""

    def of_numbers(self, table: Table) -> str | None:
        """A remark about the numbers that an empty table assigns. None: it assigns none."""

    unchangeable: str
    """What to do about a difference that no statement repairs."""


def differences(
    wanted: Catalogue, found: Catalogue, ddl: Ddl, *, optional: frozenset[str] = frozenset()
) -> Iterator[Outcome]:
    """Yield each difference with its repair. The indexes in `optional` may be missing."""
    for table in wanted.tables.values():
        if table.name in found.tables:
            yield from _of_table(table, found.tables[table.name], ddl)
        else:
            yield _missing_table(table, wanted, ddl)
    for index in wanted.indexes.values():
        if index.table in found.tables:
            yield from _of_index(index, found, ddl, is_optional=index.name in optional)
    for index in found.indexes.values():
        if index.unique and index.table in wanted.tables and index.name not in wanted.indexes:
            yield warning(
                f"the table {index.table} has a unique index {index.name} that the migrations do not create: "
                "it may refuse records",
                f"drop the index {index.name}, unless its owner wants it to refuse records",
            )
    for routine in wanted.routines.values():
        if routine.table is None or routine.table in found.tables:
            yield from _of_routine(routine, found, ddl)
    for routine in found.routines.values():
        if routine.table in wanted.tables and routine.name not in wanted.routines:
            yield warning(
                f"the table {routine.table} has a trigger {routine.name} that the migrations do not create: "
                "it may change or refuse records",
                f"drop the trigger {routine.name}, unless its owner wants what it does",
            )


def _missing_table(table: Table, wanted: Catalogue, ddl: Ddl) -> Outcome:
    indexes = [index for index in wanted.indexes.values() if index.table == table.name]
    routines = [routine for routine in wanted.routines.values() if routine.table == table.name]
    words = ddl.of_numbers(table)
    numbers = "" if words is None else f". In an empty one, {words}"
    return problem(
        f"the table {table.name} is missing, with all its data: restore it from a backup, or create an "
        f"empty one{numbers}",
        ddl.create_table(table, indexes, routines),
    )


def _of_table(wanted: Table, found: Table, ddl: Ddl) -> Iterator[Outcome]:
    name = wanted.name
    for column in wanted.columns.values():
        if column.name in found.columns:
            yield from _of_column(name, column, found.columns[column.name], ddl)
        else:
            yield _missing_column(wanted, found, column, ddl)
    for column in found.columns.values():
        if column.name not in wanted.columns and column.not_null and column.default is None:
            yield problem(
                f"the column {name}.{column.name}, which the migrations do not create, refuses NULL: no "
                "record can be added",
                ddl.drop_not_null(name, column.name) or ddl.unchangeable,
            )
    if wanted.form != found.form:
        yield warning(
            f"the table {name} was created with {found.form or 'no options'}, not {wanted.form or 'none'}",
            ddl.unchangeable,
        )
    if wanted.key != found.key:
        shown = f"({', '.join(wanted.key)})"
        if found.key:
            reason, mend = f"the primary key of {name} is ({', '.join(found.key)}), not {shown}", None
        else:
            reason, mend = f"the table {name} has lost its primary key {shown}", ddl.add_key(wanted)
        yield problem(reason, mend or ddl.unchangeable)
    for columns in sorted(wanted.uniques - found.uniques):
        yield problem(
            f"the table {name} has lost its unique constraint ({', '.join(columns)})",
            ddl.unchangeable,
        )
    expected = {attached.text for attached in wanted.attached}
    for attached in found.attached:
        if attached.text not in expected:
            kind = problem if attached.is_severe else warning
            yield kind(
                f"the table {name} has {attached.text}, not created by a migration: {attached.effect}",
                attached.mend,
            )
    yield from _of_options("TABLE", name, wanted.options, found.options, ddl)
    if found.key_name:
        yield from _of_options("INDEX", found.key_name, wanted.key_options, found.key_options, ddl)


def _missing_column(wanted: Table, found: Table, column: TableColumn, ddl: Ddl) -> Outcome:
    reason = f"the column {wanted.name}.{column.name} is missing"
    others = [other for other in found.columns.values() if other.name not in wanted.columns]
    alike = ", ".join(other.name for other in others if other.type == column.type)
    if not alike:
        return problem(reason, ddl.add_column(wanted, column) or LOST)
    return problem(
        f"{reason}, and there is {alike}, which the migrations do not create: it may be the same column "
        "under another name",
        f"check what {alike} holds, and rename it to {column.name} if it is that column: an empty column "
        "would hide the stored data",
    )


def _of_column(table: str, wanted: TableColumn, found: TableColumn, ddl: Ddl) -> Iterator[Outcome]:
    name = f"{table}.{wanted.name}"
    if wanted.type != found.type:
        yield problem(f"the column {name} has the type {found.type}, not {wanted.type}", ddl.unchangeable)
    if wanted.not_null and not found.not_null:
        yield warning(
            f"the column {name} accepts NULL", ddl.set_not_null(table, wanted.name) or ddl.unchangeable
        )
    if found.not_null and not wanted.not_null:
        yield problem(
            f"the column {name} refuses NULL", ddl.drop_not_null(table, wanted.name) or ddl.unchangeable
        )
    if wanted.default is not None and wanted.default != found.default:
        reason = f"the column {name} has the default {found.default or 'NULL'}, not {wanted.default}"
        if wanted.default.startswith("nextval("):
            reason += f"; {NUMBERS}"
        mend = ddl.set_default(table, wanted) or ddl.unchangeable
        is_relied_on = wanted.not_null and found.default is None and wanted.default != _NOW
        yield problem(reason, mend) if is_relied_on else warning(reason, mend)


def _of_options(
    kind: str, name: str, wanted: Mapping[str, str], found: Mapping[str, str], ddl: Ddl
) -> Iterator[Outcome]:
    missing = {option: value for option, value in wanted.items() if found.get(option) != value}
    if missing:
        shown = ", ".join(f"{option} = {value}" for option, value in missing.items())
        yield warning(
            f"the {kind.lower()} {name} lacks {shown}",
            ddl.set_options(kind, name, missing) or ddl.unchangeable,
        )


def _of_index(wanted: Index, catalogue: Catalogue, ddl: Ddl, *, is_optional: bool) -> Iterator[Outcome]:
    found = catalogue.indexes.get(wanted.name)
    if found is None or found.table != wanted.table:
        if not is_optional:
            yield problem(f"the index {wanted.name} of {wanted.table} is missing", ddl.create_index(wanted))
    elif (found.unique, found.body) != (wanted.unique, wanted.body):
        yield problem(
            f"the index {wanted.name} has another definition: it is {_shown(found)}, not {_shown(wanted)}",
            ddl.replace_index(wanted),
        )
    elif not found.valid:
        yield problem(
            f"the index {wanted.name} is not valid: its creation was interrupted", ddl.rebuild_index(wanted)
        )
    else:
        yield from _of_options("INDEX", wanted.name, wanted.options, found.options, ddl)


def _shown(index: Index) -> str:
    return f"unique, {index.body}" if index.unique else index.body


def _of_routine(wanted: Routine, catalogue: Catalogue, ddl: Ddl) -> Iterator[Outcome]:
    found = catalogue.routines.get(wanted.name)
    if found is None:
        yield problem(f"the {wanted.kind} {wanted.name} is missing", ddl.create_routine(wanted))
    elif found.body != wanted.body:
        yield problem(f"the {wanted.kind} {wanted.name} has another definition", ddl.replace_routine(wanted))
