"""`assistly locks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .asking import ask
from .opening import opened
from .options import By, Json, Note, Utc, Yes
from .output import Output

if TYPE_CHECKING:
    from assistly.storage import WorkerLock

locks = typer.Typer(
    name="locks",
    help="Named locks, each with one owner at a time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_WARNING = (
    "If that process still runs, it goes on until it next renews the lock, and learns then that the lock is "
    "lost. Meanwhile another one may take the lock and do the same work, and only what checks the fence "
    "refuses the old owner."
)


@locks.command("list")
def list_locks(json: Json = False, utc: Utc = False) -> None:
    """List the locks that are held, by name, with their owners. A lock is free when it has expired."""
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
        int | None, typer.Option(min=0, metavar="N", help="Only if the lock has this fence, as `list` shows.")
    ] = None,
    yes: Yes = False,
    by: By = None,
    note: Note = None,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """Free a lock, whoever holds it, after a question. Exit code 1 if nobody holds it.

    The owner is not told: if it still runs, it goes on until it next renews the lock, and learns then that
    the lock is lost. Meanwhile another process may take the lock, and both do the work that it protects.
    What checks the fence refuses the old owner as soon as the new one, whose fence is higher, was there.
    """
    from assistly.storage import LockLost, NotFound

    from . import audit

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        lock = storage.lock.current(name)
        if lock is None:
            raise NotFound(f"nobody holds the lock {name!r}")
        if fence is not None and lock.fence != fence:
            raise LockLost(
                f"nothing was done: the lock {name!r} has fence {lock.fence}, not {fence}. {_held(out, lock)}"
            )
        out.remark(f"{_held(out, lock)} {_WARNING}")
        if not yes:
            ask(out, f"Free the lock {name!r}?")
        with storage.transaction() as tx:
            if not tx.lock.release(lock):
                raise LockLost(
                    f"nothing was done: {lock.owner_id!r} does not hold the lock {name!r} any more"
                )
            audit.record(
                tx, "locks.release", by=by, note=note, name=name, owner_id=lock.owner_id, fence=lock.fence
            )
    sentence = f"the lock {name!r} is free; {lock.owner_id!r} held it, with fence {lock.fence}"
    out.result({"released": lock}, sentence)


def _held(out: Output, lock: WorkerLock) -> str:
    return f"It is held by {lock.owner_id!r}, with fence {lock.fence}, until {out.time(lock.expires_at)}."
