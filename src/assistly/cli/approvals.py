"""`assistly approvals`."""

from __future__ import annotations

from typing import Annotated

import typer

from assistly.operations.audit import Person

from .opening import opened
from .options import By, Json, Limit, Note, Utc
from .output import Output, compact, jsonable, one_line

approvals = typer.Typer(
    name="approvals", help="Requests that wait for a decision.", no_args_is_help=True, rich_markup_mode=None
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The id of the approval.")]


def _complete_status(incomplete: str) -> list[str]:
    return [status for status in ("pending", "approved", "rejected") if status.startswith(incomplete)]


@approvals.command("list")
def list_approvals(
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS",
            help="Only those with this status, such as pending.",
            autocompletion=_complete_status,
        ),
    ] = None,
    before: Annotated[str | None, typer.Option(metavar="ID", help="Only those older than this one.")] = None,
    limit: Limit = 100,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """List the approvals, newest first."""
    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = storage.approvals.list(status=status, before=before, limit=limit)
        others = [] if found or status is None else storage.approvals.list(before=before, limit=limit)
    out.page(
        "approvals",
        found,
        ("id", "status", "created", "payload"),
        lambda each: (each.id, each.status, out.time(each.created_at), one_line(compact(each.payload))),
        option="--before",
        following=found[-1].id if len(found) == limit else None,
        cut="payload",
    )
    if others:
        statuses = ", ".join(sorted({each.status for each in others}))
        out.remark(f"none of the newest {len(others)} has the status {status}; their statuses: {statuses}")


@approvals.command()
def show(id: Id, json: Json = False, utc: Utc = False) -> None:
    """Show an approval, with its payload and its decision.

    Who decided is known if it was done with `assistly approvals` or on the page.
    """
    from assistly.storage import NotFound
    from assistly.views.approvals import decided_approval

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = decided_approval(storage, id)
    if found is None:
        raise NotFound(f"there is no approval {id!r}")
    approval, by, note = found.approval, found.by, found.note
    out.record(
        {**jsonable(approval), "decided_by": by, "decision_note": note},
        [
            ("id", approval.id),
            ("status", approval.status),
            ("created", out.time(approval.created_at)),
            ("decided", out.time(approval.decided_at)),
            *([] if by is None else [("decided by", one_line(by))]),
            *([] if note is None else [("note", one_line(note))]),
            ("payload", compact(approval.payload)),
        ],
    )


@approvals.command()
def approve(id: Id, by: By = None, note: Note = None, json: Json = False) -> None:
    """Approve a pending request. Exit code 1 if it is already decided."""
    _decide(id, "approved", Person(by, note), json)


@approvals.command()
def reject(id: Id, by: By = None, note: Note = None, json: Json = False) -> None:
    """Reject a pending request. Exit code 1 if it is already decided."""
    _decide(id, "rejected", Person(by, note), json)


def _decide(id: str, status: str, person: Person, json: bool) -> None:
    from assistly.operations.approvals import decide

    out = Output(json=json)
    with opened(out) as storage:
        approval = decide(storage, id, status, person)
    out.result(approval, f"the approval {id!r} is {status}")
