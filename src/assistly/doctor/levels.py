"""What the migrations create, what the database has, and which migrations were applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from assistly.storage.errors import ConfigurationError, MigrationError, StorageError, StorageUnavailable

from . import sqlite_schema
from .findings import NotChecked, Outcome
from .schema import Catalogue, Ddl, differences

if TYPE_CHECKING:
    from assistly.storage.engines.sql.migrations import Migration

    from .context import CheckContext


def wanted(context: CheckContext, made: Sequence[Migration]) -> Catalogue:
    """What these migrations create. Raises NotChecked if they cannot be tried out."""
    if context.engine == "sqlite":
        from assistly.storage.engines.sqlite.inspection import make_gap_index, reference

        with reference(made) as connection:
            make_gap_index(connection)
            return sqlite_schema.read(connection, with_rows=True)
    from . import postgres_schema

    server = context.server()
    try:
        with server.reference(made) as namespace:
            return postgres_schema.read(server, namespace)
    except (ConfigurationError, MigrationError, StorageUnavailable) as error:
        raise NotChecked(f"cannot create the tables to compare with: {error}") from error


def found(context: CheckContext) -> Catalogue:
    """What the database has."""
    if context.engine == "sqlite":
        return sqlite_schema.read(context.file_connection())
    from . import postgres_schema

    # The server locks a table to read the definition of its index.
    context.require_unlocked()
    return postgres_schema.read(context.server(), namespace_of(context))


def namespace_of(context: CheckContext) -> int:
    """The oid of the schema on a Postgres server."""
    from . import postgres_schema

    server = context.server()
    namespace: int | None = server.value(postgres_schema.NAMESPACE, {"schema": server.dialect.schema})
    if namespace is None:
        raise NotChecked(f'there is no schema "{server.dialect.schema}"')
    return namespace


def schema_differences(
    context: CheckContext, made: Sequence[Migration], stored: Catalogue
) -> Iterable[Outcome]:
    """The differences between the database and what these migrations create."""
    ddl, optional = _ddl(context)
    return differences(wanted(context, made), stored, ddl, optional=optional)


def _ddl(context: CheckContext) -> tuple[Ddl, frozenset[str]]:
    if context.engine == "sqlite":
        return sqlite_schema.SqliteDdl(), sqlite_schema.OPTIONAL
    from . import postgres_schema

    return postgres_schema.PostgresDdl(context.server().dialect.quoted_schema), frozenset()


def unrecorded(
    context: CheckContext, known: Sequence[Migration], applied: Mapping[str, str]
) -> list[Migration]:
    """The migrations that were applied according to the tables, but are not recorded in the database.

    These are the ones before a recorded migration, since migrations are applied in order, and the ones after
    it if the tables match them. Empty if nothing is recorded.
    """
    recorded = [place for place, migration in enumerate(known) if migration.name in applied]
    if not recorded or len(recorded) == len(known):
        return []
    if context.level is None:
        try:
            context.level = _level(context, known, at_least=recorded[-1] + 1)
        except (NotChecked, StorageError):
            context.level = recorded[-1] + 1
    return [migration for migration in known[: context.level] if migration.name not in applied]


def _level(context: CheckContext, known: Sequence[Migration], *, at_least: int) -> int:
    """How many of the migrations the tables show: all, one more than `at_least`, or `at_least`."""
    stored = found(context)
    ddl, optional = _ddl(context)

    def differ(made: Catalogue, others: Catalogue) -> bool:
        return any(differences(made, others, ddl, optional=optional))

    if at_least == len(known):
        return at_least
    for count in sorted({len(known), at_least + 1}, reverse=True):
        made = wanted(context, known[:count])
        if differ(made, stored):
            continue
        before = wanted(context, known[: count - 1])
        # The last one has added or dropped something. A migration that only changes rows leaves no trace.
        if differ(made, before) or differ(before, stored):
            return count
    return at_least
