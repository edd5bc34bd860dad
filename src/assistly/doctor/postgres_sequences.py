"""Sequences of the columns that number records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from assistly.storage.engines.postgres.dialect import quote

from .findings import Outcome, problem, warning
from .schema import MARGIN, NUMBERS

if TYPE_CHECKING:
    from assistly.storage.engines.postgres.inspection import Inspection

# Sequences used by a default, whoever owns them, and those of identity columns.
_SEQUENCES = """
SELECT n.nspname::text, s.relname::text, c.relname::text, a.attname::text, q.seqmax, q.seqincrement,
    EXISTS (
        SELECT FROM pg_catalog.pg_depend AS o
        WHERE o.objid = s.oid AND o.classid = 'pg_catalog.pg_class'::regclass AND o.deptype IN ('a', 'i')
            AND o.refclassid = 'pg_catalog.pg_class'::regclass AND o.refobjid = c.oid
            AND o.refobjsubid = a.attnum
    )
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_attrdef AS e ON e.adrelid = c.oid AND e.adnum = a.attnum
JOIN pg_catalog.pg_depend AS d ON
    d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = e.oid
        AND d.refclassid = 'pg_catalog.pg_class'::regclass
    OR d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'i'
        AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum
JOIN pg_catalog.pg_class AS s ON s.relkind = 'S'
    AND s.oid = CASE WHEN d.deptype = 'i' THEN d.objid ELSE d.refobjid END
JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = s.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = s.relnamespace
WHERE c.relnamespace = %(namespace)s::bigint::oid AND c.relkind IN ('r', 'p')
    AND CASE WHEN s.relkind = 'S' THEN pg_catalog.has_sequence_privilege(s.oid, 'SELECT') ELSE FALSE END
    AND c.relname LIKE 'assistly\\_%%' AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
ORDER BY s.oid
"""


def of_sequences(server: Inspection, namespace: int) -> Iterator[Outcome]:
    """Yield a problem for each sequence whose next number is taken, or that is exhausted."""
    schema = server.dialect.t.removesuffix("assistly_")
    for place, sequence, table, column, most, step, is_owned in server.rows(
        _SEQUENCES, {"namespace": namespace}
    ):
        named = f"{quote(place)}.{quote(sequence)}"
        doubled = named.replace("%", "%%")
        taken = f"SELECT pg_catalog.max({quote(column)}) FROM {schema}{quote(table)}"
        ((last, is_called, highest),) = server.table_rows(
            f"SELECT last_value, is_called, ({taken}) FROM {doubled}"
        )
        following = last + step if is_called else last
        if highest is not None and following <= highest:
            yield problem(
                f"the sequence {sequence} is behind {table}.{column}: the next record is refused; {NUMBERS}",
                raised(named, taken).replace("%%", "%"),
            )
        elif following > most:
            yield problem(
                f"the sequence {sequence} of {table}.{column} has reached its MAXVALUE ({most}): the next "
                "record is refused",
                f"ALTER SEQUENCE {named} NO MAXVALUE",
            )
        if not is_owned:
            yield warning(
                f"the sequence {sequence} numbers {table}.{column} but is not owned by it: exports, imports "
                "and copies do not find it",
                f"ALTER SEQUENCE {named} OWNED BY {schema}{quote(table)}.{quote(column)}".replace("%%", "%"),
            )


def raised(named: str, taken: str) -> str:
    """The statement that moves a sequence above what is stored."""
    quoted = named.replace("'", "''")
    return f"SELECT pg_catalog.setval('{quoted}', (SELECT coalesce(({taken}), 0) + {MARGIN}))"
