"""`assistly migrate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from .opening import storage_place
from .options import Json, Utc
from .output import Output

if TYPE_CHECKING:
    from assistly.storage.engines.sql.migrations import (
        Migration,
        MigrationEffects,
        MigrationState,
        MigrationTarget,
    )

T = TypeVar("T")


def migrate(
    plan: Annotated[
        bool, typer.Option("--plan", help="Only list the pending migrations, and what they lock.")
    ] = False,
    sql: Annotated[
        bool,
        typer.Option("--sql", help="Only print the SQL that applies and records the pending migrations."),
    ] = False,
    status: Annotated[
        bool,
        typer.Option(
            "--status", help="Only list all migrations: when applied, and whether the file is unchanged."
        ),
    ] = False,
    grants: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="Only print the GRANTs for the Postgres role of the application."),
    ] = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Create the database if it is missing, and apply the pending migrations.

    Does so even if STORAGE_AUTO_MIGRATE is false.

    --plan, --sql, --status and --grants change nothing.
    """
    if plan + sql + status + (grants is not None) > 1:
        raise typer.BadParameter("give only one of --plan, --sql, --status and --grants")
    if json and (sql or grants is not None):
        raise typer.BadParameter("--sql and --grants print SQL: omit --json")
    if grants is not None and not grants.strip():
        raise typer.BadParameter("--grants takes the name of a role")
    out = Output(json=json, utc=utc)
    if plan:
        _plan(out)
    elif sql:
        _sql(out)
    elif status:
        _status(out)
    elif grants is not None:
        _grants(out, grants)
    else:
        _apply(out)


def _apply(out: Output) -> None:
    from assistly.storage.factory import build_storage
    from assistly.storage.settings import load_settings

    settings = load_settings()
    out.remark(f"storage: {storage_place(settings)}")
    with build_storage(settings, auto_prune=False) as storage:
        applied = storage.migrate()
    if out.json:
        out.document({"applied": applied})
        return
    for name in applied:
        out.say(f"applied {name}")
    if not applied:
        out.say("the schema is up to date")


def _status(out: Output) -> None:
    from assistly.storage.engines.sql.migrations import states

    found = _on_schema(out, states)
    if out.json:
        out.document({"migrations": found})
        return
    rows = [(state.name, _file(state), out.time(state.applied_at)) for state in found]
    out.table(("migration", "file", "applied"), rows)
    if all(state.checksum_ok is None and state.is_known for state in found):
        out.remark("there is no database, or it has no tables of Assistly: `assistly migrate` creates them")


def _file(state: MigrationState) -> str:
    if not state.is_known:
        return "unknown: the database is newer than this version"
    if state.checksum_ok is None:
        return "pending"
    return "ok" if state.checksum_ok else "changed since it was applied"


def _plan(out: Output) -> None:
    from assistly.storage.engines.sql.migrations import plan

    found = _on_schema(out, plan)
    if out.json:
        out.document({"pending": [{"name": name, "effects": effects} for name, effects in found]})
        return
    for name, effects in found:
        out.say(name)
        for sentence in _sentences(effects):
            out.say(f"  {sentence}")
    if not found:
        out.say("the schema is up to date")


def _sentences(effects: MigrationEffects | None) -> list[str]:
    if effects is None:
        return ["other writers wait until it is done"]
    if not effects.locked_tables:
        return ["takes no long locks"]
    said = [f"locks {table} for as long as a full scan takes" for table in effects.locked_tables]
    return said + [f"builds the index {index}" for index in effects.built_indexes]


def _sql(out: Output) -> None:
    from assistly.storage.engines.sql.migrations import script

    text = _on_schema(out, script)
    if text:
        typer.echo(text, nl=False)
    else:
        out.remark("the schema is up to date")


def _grants(out: Output, role: str) -> None:
    from assistly.storage.engines.sql.migrations import grants

    for statement in _on_schema(out, lambda target, migrations: grants(target, migrations, role)):
        typer.echo(statement)
    out.remark("Later migrations may create tables: print the grants again then.")


def _on_schema(out: Output, work: Callable[[MigrationTarget, Sequence[Migration]], T]) -> T:
    """Print the location of the storage, and read its schema without changing it."""
    from assistly.storage.engines.sql.migrations import MigratedBackend
    from assistly.storage.errors import ConfigurationError
    from assistly.storage.factory import open_backend
    from assistly.storage.settings import load_settings

    settings = load_settings()
    out.remark(f"storage: {storage_place(settings)}")
    backend = open_backend(settings)
    try:
        if not isinstance(backend, MigratedBackend):
            raise ConfigurationError(
                f"the engine {settings.engine} has neither SQL migrations nor roles: `assistly migrate` "
                "prepares its data"
            )
        return backend.on_schema(work)
    finally:
        backend.close()
