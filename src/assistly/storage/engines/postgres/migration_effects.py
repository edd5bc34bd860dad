"""Which locks a migration takes for long, read from its text."""

from __future__ import annotations

import re
from collections.abc import Set

from ..sql.migrations import Migration, MigrationEffects

_END = re.compile(r";[ ]*$", re.MULTILINE)
_INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?(\w+) ON (\w+)")
_WRITE = re.compile(r"(?:UPDATE|DELETE FROM) (\w+)")
_ALTER = re.compile(r"ALTER TABLE (?:IF EXISTS )?(\w+)")
_READS_TABLE = re.compile(
    r"SET NOT NULL|COLUMN \w+ TYPE |serial\b|ADD (?:CONSTRAINT|PRIMARY|UNIQUE|CHECK|FOREIGN)"
)


def effects_of(migration: Migration, existing: Set[str]) -> MigrationEffects:
    """The effects on tables that exist: those that it makes itself are empty.

    All locks are held until the end of the migration. Those that are not mentioned are held as long as the
    others, or for a moment if there are none.
    """
    tables: dict[str, None] = {}
    indexes = []
    for part in _END.split(migration.sql):
        statement = "\n".join(line for line in part.splitlines() if line[:2] != "--").strip()
        if (index := _INDEX.match(statement)) and index[2] in existing:
            indexes.append(index[1])
            tables[index[2]] = None
        elif table := _read_table(statement):
            tables |= {table: None} if table in existing else {}
    return MigrationEffects(tuple(tables), tuple(indexes))


def _read_table(statement: str) -> str | None:
    """The table of which a statement reads or writes all rows, under a lock."""
    if write := _WRITE.match(statement):
        return write[1]
    alter = _ALTER.match(statement)
    return alter[1] if alter and _READS_TABLE.search(statement) else None
