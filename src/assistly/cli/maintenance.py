"""`assistly prune` and `assistly maintain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from assistly.operations.audit import Person

from .opening import opened
from .options import DryRun, Json
from .output import Output

if TYPE_CHECKING:
    from assistly.storage import PrunableCount, Storage


def prune(
    force: Annotated[
        bool, typer.Option("--force", help="Prune even within a minute of the last prune.")
    ] = False,
    dry_run: DryRun = False,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="NAME", help="Who does this. Records an event with the numbers."),
    ] = None,
    note: Annotated[
        str | None, typer.Option("--note", metavar="TEXT", help="Why. Records an event with the numbers.")
    ] = None,
    json: Json = False,
) -> None:
    """Delete records that are past their RETENTION_ settings, then run `assistly maintain`.

    Records an event only with --by or --note, so that cron does not fill the log.

    With STORAGE_VACUUM=off, only deletes. With --dry-run, deletes nothing, and prints how many records of
    each kind it would delete: by age, and beyond the maximum number.
    """
    from dataclasses import asdict

    from assistly.operations import pruning as operations

    out = Output(json=json)
    with opened(out) as storage:
        if dry_run:
            _print_prunable(out, storage)
            return
        report = operations.prune(storage, Person(by, note), force=force)
        if report.ran and storage.worker_maintains:
            storage.maintain()
    if json:
        out.document(report)
    elif report.ran:
        deleted = [(kind, f"{count} deleted") for kind, count in asdict(report).items() if kind != "ran"]
        out.table((), deleted)
    else:
        out.say("nothing was pruned: the last prune was less than a minute ago (--force prunes anyway)")


def maintain(json: Json = False) -> None:
    """Vacuum the jobs table on Postgres, if needed. Other engines need no maintenance.

    Workers do it once a minute. Run it from cron if no worker runs, or with STORAGE_VACUUM=off.
    """
    from assistly.storage.settings import load_settings

    out = Output(json=json)
    with opened(out) as storage:
        storage.maintain()
    engine = load_settings().engine
    needs_none = engine in ("memory", "sqlite")
    out.result({"done": True}, f"nothing to do on {engine}" if needs_none else "maintenance is done")


def _print_prunable(out: Output, storage: Storage) -> None:
    from dataclasses import fields

    found = storage.prunable()
    if out.json:
        out.document(found)
        return
    counts: list[tuple[str, PrunableCount]] = [
        (field.name, getattr(found, field.name)) for field in fields(found)
    ]
    rows = [(kind, _shown(count, count.by_age), _shown(count, count.by_cap)) for kind, count in counts]
    out.table(("kind", "by age", "beyond the cap"), rows)
    out.remark("nothing was deleted")


def _shown(count: PrunableCount, number: int) -> str:
    return str(number) if count.is_exact else f"at least {number}"
