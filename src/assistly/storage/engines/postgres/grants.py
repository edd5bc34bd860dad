"""What a role needs that runs the application, and does not migrate."""

from __future__ import annotations

from .dialect import quote
from .executor import PostgresExecutor
from .name_conflicts import MIGRATIONS, existing_tables

_SEQUENCES = """
SELECT s.relname::text
FROM pg_catalog.pg_class AS s
JOIN pg_catalog.pg_depend AS d ON d.objid = s.oid AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
JOIN pg_catalog.pg_class AS t ON t.oid = d.refobjid AND d.refclassid = d.classid
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
WHERE s.relkind = 'S' AND d.deptype IN ('a', 'i') AND n.nspname = %(schema)s
    AND t.relname = ANY(%(names)s::text[])
ORDER BY s.relname
"""


def grant_statements(executor: PostgresExecutor, schema: str, quoted_role: str) -> list[str]:
    """The statements for a schema that is up to date."""
    tables = sorted(existing_tables(executor, schema))
    sequences = [name for (name,) in executor.rows(_SEQUENCES, {"schema": schema, "names": tables})]

    def named(names: list[str]) -> str:
        return ", ".join(f"{quote(schema)}.{quote(name)}" for name in names)

    rights = [
        ("USAGE ON SCHEMA", quote(schema)),
        ("SELECT ON", named([MIGRATIONS.name])),
        ("SELECT, INSERT, UPDATE, DELETE ON", named(tables)),
        ("USAGE ON SEQUENCE", named(sequences)),
    ]
    return [f"GRANT {right} {objects} TO {quoted_role};" for right, objects in rights if objects]
