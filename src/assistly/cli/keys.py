"""`assistly keys`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from assistly.operations.audit import Person

from .asking import ask
from .opening import opened
from .options import By, Json, Note, Utc, Yes
from .output import Output, compact

if TYPE_CHECKING:
    from assistly.views.keys import KeyState

keys = typer.Typer(
    name="keys",
    help="Idempotency keys, under which commands run once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="The key.")]


@keys.command()
def show(key: Key, json: Json = False, utc: Utc = False) -> None:
    """Show what is stored under a key, and the job that has it. Exit code 1 if there is neither.

    A command and a job may have the same key; they are independent. `idempotency.claim` and `run_once` store
    commands, `queue.schedule` stores jobs.
    """
    from assistly.storage import NotFound
    from assistly.views.keys import key_state

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = key_state(storage, key)
    if not found.exists:
        raise NotFound(f"neither a command nor a job has the key {key!r}")
    out.record(found, [("key", key), ("command", _command(out, found)), *_details(found)])


@keys.command()
def forget(
    key: Key, yes: Yes = False, by: By = None, note: Note = None, json: Json = False, utc: Utc = False
) -> None:
    """Forget a key, so that its command can run again. Exit code 1 if nothing is stored under it.

    Deletes the stored result. If a caller is running the command now, asks first, then deletes its claim: the
    command may run a second time at once, and the first caller's result is refused. A job with the same key
    keeps it, and `queue.schedule` with that key still returns this job: see `assistly jobs remove`.
    """
    from assistly.operations import keys as operations
    from assistly.views.keys import holder, key_state

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        if not yes and (found := key_state(storage, key)).state == "in_progress":
            out.remark(
                f"The command with this key is in progress until {out.time(found.lease_until)}. If its "
                "caller still runs, the command may run twice, and the caller's result is refused."
            )
            ask(out, f"Forget the key {key!r}?")
        found = operations.forget(storage, key, Person(by, note))
    sentence = f"the key {key!r} is forgotten, so that the same command can run again: {_lost(out, found)}"
    if found.job is not None:
        sentence += f"\n{holder(found.job)} has the same key, and keeps it"
    out.result({"forgotten": found}, sentence)


def _lost(out: Output, found: KeyState) -> str:
    if found.state == "completed":
        return f"its result, stored at {out.time(found.saved_at)}, is deleted"
    if found.state == "in_progress":
        return f"the caller that runs it, until {out.time(found.lease_until)}, can no longer store its result"
    return f"it was started, and not completed by {out.time(found.lease_until)}"


def _command(out: Output, found: KeyState) -> str:
    if found.state == "completed":
        return f"completed at {out.time(found.saved_at)}: callers get its result, and it does not run again"
    if found.state == "in_progress":
        return f"in progress until {out.time(found.lease_until)}: a caller runs it, or crashed"
    if found.state == "lease_over":
        return f"started, and not completed by {out.time(found.lease_until)}: the next caller runs it"
    return "unknown: the next caller runs it"


def _details(found: KeyState) -> list[tuple[str, str]]:
    from assistly.views.keys import holder

    rows = [] if found.fingerprint is None else [("fingerprint", found.fingerprint)]
    if found.state == "completed":
        rows.append(("result", compact(found.value)))
    job = "none" if found.job is None else f"{holder(found.job)}: assistly jobs show {found.job.id}"
    return [*rows, ("job", job)]
