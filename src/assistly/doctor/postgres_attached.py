"""What others have attached to the tables of a Postgres schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.storage.engines.postgres.dialect import quote

from .schema import Attached

if TYPE_CHECKING:
    from assistly.storage.engines.postgres.inspection import Inspection

# A foreign key from another table to one of ours counts too: it can refuse deletions.
_CONSTRAINTS = """
SELECT c.relname::text, r.oid::regclass::text, k.conname::text, k.contype::text, r.oid = c.oid,
    pg_catalog.pg_get_constraintdef(k.oid)
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS r ON r.oid = k.conrelid
JOIN pg_catalog.pg_class AS c ON c.oid IN (k.conrelid, k.confrelid)
WHERE c.relnamespace = %(namespace)s::bigint::oid AND c.relname LIKE 'assistly\\_%%'
    AND k.contype IN ('c', 'f', 'x') AND k.conparentid = 0
ORDER BY k.oid, c.oid
"""
_RULES = """
SELECT c.relname::text, w.rulename::text
FROM pg_catalog.pg_rewrite AS w JOIN pg_catalog.pg_class AS c ON c.oid = w.ev_class
WHERE c.relnamespace = %(namespace)s::bigint::oid AND c.relname LIKE 'assistly\\_%%'
    AND c.relkind IN ('r', 'p')
ORDER BY w.oid
"""
_FORMS = """
SELECT c.relname::text, c.relrowsecurity, c.relforcerowsecurity, c.relpersistence = 'u'
FROM pg_catalog.pg_class AS c
WHERE c.relnamespace = %(namespace)s::bigint::oid AND c.relname LIKE 'assistly\\_%%'
    AND c.relkind IN ('r', 'p')
"""
_KINDS = {"c": "the CHECK", "f": "the foreign key", "x": "the exclusion constraint"}


def attached(server: Inspection, namespace: int, quoted_schema: str) -> dict[str, list[Attached]]:
    """What is attached to each table. `quoted_schema` is for the statements that detach it."""
    params = {"namespace": namespace}
    found: dict[str, list[Attached]] = {}

    def add(table: str, text: str, mend: str, effect: str, *, is_severe: bool = False) -> None:
        found.setdefault(table, []).append(Attached(text, mend, effect, is_severe))

    def alter(table: str, action: str) -> str:
        return f"ALTER TABLE {quoted_schema}.{quote(table)} {action}"

    for table, other, name, kind, is_own, definition in server.rows(_CONSTRAINTS, params):
        drop = f"DROP CONSTRAINT {quote(name)}"
        if is_own:
            text = f"{_KINDS[kind]} {name}: {definition}"
            add(table, text, alter(table, drop), "it may refuse records")
        else:
            effect = "it may refuse deletions of records"
            add(table, f"the foreign key {name} of {other}", f"ALTER TABLE {other} {drop}", effect)
    for table, name in server.rows(_RULES, params):
        drop = f"DROP RULE {quote(name)} ON {quoted_schema}.{quote(table)}"
        add(table, f"the rule {name}", drop, "it may replace statements of the storage")
    for table, is_secured, is_forced, is_unlogged in server.rows(_FORMS, params):
        if is_secured:
            effect = "roles without a policy see no rows"
            add(table, "row level security", alter(table, "DISABLE ROW LEVEL SECURITY"), effect)
        if is_forced:
            effect = "even the owner of the table sees only the rows that a policy allows"
            add(table, "forced row level security", alter(table, "NO FORCE ROW LEVEL SECURITY"), effect)
        if is_unlogged:
            effect = "a crash of the server empties it"
            add(table, "no write-ahead log (UNLOGGED)", alter(table, "SET LOGGED"), effect, is_severe=True)
    return found
