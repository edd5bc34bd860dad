"""`assistly approvals`."""

from __future__ import annotations

from typing import Annotated

import typer

from .opening import opened
from .options import By, Json, Limit, Note, Utc
from .output import Output, compact, one_line

approvals = typer.Typer(
    name="approvals", help="Requests for a decision.", no_args_is_help=True, rich_markup_mode=None
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The id of the approval.")]


@approvals.command("list")
def list_approvals(
    status: Annotated[str | None, typer.Option(help="Only those of this status, as pending.")] = None,
    before: Annotated[str | None, typer.Option(metavar="ID", help="Only those older than this one.")] = None,
    limit: Limit = 100,
    json: Json = False,
    utc: Utc = False,
) -> None:
    """List the approvals, newest first."""
    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = storage.approvals.list(status=status, before=before, limit=limit)
    out.page(
        "approvals",
        found,
        ("id", "status", "created", "payload"),
        lambda each: (each.id, each.status, out.time(each.created_at), one_line(compact(each.payload))),
        option="--before",
        following=found[-1].id if len(found) == limit else None,
        cut="payload",
    )


@approvals.command()
def show(id: Id, json: Json = False, utc: Utc = False) -> None:
    """Show an approval, with its payload."""
    from assistly.storage import NotFound

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        approval = storage.approvals.get(id)
    if approval is None:
        raise NotFound(f"there is no approval {id!r}")
    out.record(
        approval,
        [
            ("id", approval.id),
            ("status", approval.status),
            ("created", out.time(approval.created_at)),
            ("decided", out.time(approval.decided_at)),
            ("payload", compact(approval.payload)),
        ],
    )


@approvals.command()
def approve(id: Id, by: By = None, note: Note = None, json: Json = False) -> None:
    """Approve what is pending. Exit code 1 if it was decided before."""
    _decide(id, "approved", "approvals.approve", by, note, json)


@approvals.command()
def reject(id: Id, by: By = None, note: Note = None, json: Json = False) -> None:
    """Reject what is pending. Exit code 1 if it was decided before."""
    _decide(id, "rejected", "approvals.reject", by, note, json)


def _decide(id: str, status: str, action: str, by: str | None, note: str | None, json: bool) -> None:
    from . import audit

    out = Output(json=json)
    with opened(out) as storage, storage.transaction() as tx:
        approval = tx.approvals.decide(id, status)
        audit.record(tx, action, by=by, note=note, approval_id=id)
    out.result(approval, status)
