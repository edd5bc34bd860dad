"""`assistly approvals`."""

from __future__ import annotations

from typing import Annotated

import typer

from .opening import opened
from .options import By, Json, Limit, Note, Utc
from .output import Output, one_line

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
    from json import dumps

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        found = storage.approvals.list(status=status, before=before, limit=limit)
    more = found[-1].id if len(found) == limit else None
    if json:
        out.document({"approvals": found, "next": more})
        return
    if not found:
        out.say("no approvals")
        return
    rows = [
        (
            approval.id,
            approval.status,
            out.time(approval.created_at),
            one_line(dumps(approval.payload, ensure_ascii=False)),
        )
        for approval in found
    ]
    out.table(("id", "status", "created", "payload"), rows)
    if more is not None:
        out.remark(f"there may be more: --before {more}")


@approvals.command()
def show(id: Id, json: Json = False, utc: Utc = False) -> None:
    """Show an approval, with its payload."""
    from json import dumps

    from assistly.storage import NotFound

    out = Output(json=json, utc=utc)
    with opened(out) as storage:
        approval = storage.approvals.get(id)
    if approval is None:
        raise NotFound(f"there is no approval {id!r}")
    if json:
        out.document(approval)
        return
    out.table(
        (),
        [
            ("id", approval.id),
            ("status", approval.status),
            ("created", out.time(approval.created_at)),
            ("decided", out.time(approval.decided_at)),
            ("payload", dumps(approval.payload, ensure_ascii=False)),
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
    if json:
        out.document(approval)
    else:
        out.say(status)
