"""`assistly locks`."""

from __future__ import annotations

from typing import Annotated

import typer

from assistly.operations.audit import Person

from .asking import ask
from .opening import opened
from .options import By, Json, Note, Utc, Yes
from .output import Output

locks = typer.Typer(
    name="locks",
    help="Named locks, each with one owner at a time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_WARNING = (
    "If that process still runs, it continues until it next renews the lock, and only then learns that the "
    "lock is lost. Until then another process may take the lock and do the same work; only code that checks "
    "the fence refuses the old owner."
)


@locks.command("list")
def list_locks(json: Json = False, utc: Utc = False) -> None:
    """List the held locks by name, with their owners. An expired lock is free."""
    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = storage.lock.list()
    if json:
        out.document({"locks": found})
    elif found:
        rows = [(lock.name, lock.owner_id, str(lock.fence), out.time(lock.expires_at)) for lock in found]
        out.table(("name", "owner", "fence", "expires"), rows)
    else:
        out.say("no lock is held")


@locks.command()
def release(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the lock.")],
    fence: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Only if the lock has this fence, which `list` shows."),
    ] = None,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Release a lock, regardless of its owner, after asking. Exit code 1 if nobody holds it.

    The owner is not notified: if it still runs, it continues until it next renews the lock, and only then
    learns that the lock is lost. Until then another process may take the lock, and both do the protected
    work. Code that checks the fence refuses the old owner once it has seen the higher fence of the new one.
    """
    from assistly.operations import locks as operations

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        lock = operations.held(storage, name, fence=fence, shown=out.time)
        out.remark(f"{operations.holder(lock, out.time)} {_WARNING}")
        if not yes:
            ask(out, f"Release the lock {name!r}?")
        operations.release(storage, lock, Person(by, note))
    sentence = f"the lock {name!r} is free; {lock.owner_id!r} held it, with fence {lock.fence}"
    out.result({"released": lock}, sentence)
