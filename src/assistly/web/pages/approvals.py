"""Approvals: requests that wait for a decision, and the decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.operations import approvals as operations
from assistly.storage.errors import Conflict, InvalidValue, NotFound, StatusConflict
from assistly.views.approvals import decided_approval

if TYPE_CHECKING:
    from starlette.responses import Response

    from ..page import WebPage

STATUSES = ("pending", "approved", "rejected")
_LIMIT = 20


def listed(page: WebPage) -> Response:
    """List the approvals with a status, newest first. Default: pending."""
    status = page.query("status") or "pending"
    if status not in (*STATUSES, "all"):
        raise InvalidValue(f"{status[:40]!r} is not a status: use one of {', '.join(STATUSES)}, or all")
    found = page.storage.approvals.list(
        status=None if status == "all" else status, before=page.exact_query("before"), limit=_LIMIT
    )
    following = found[-1].id if len(found) == _LIMIT else None
    return page.show(
        "approvals.html", found=found, status_=status, statuses=(*STATUSES, "all"), following=following
    )


def show(page: WebPage) -> Response:
    """Show an approval, and who decided it."""
    id = page.exact_query("id") or ""
    found = decided_approval(page.storage, id)
    if found is None:
        raise NotFound(f"there is no approval {id!r}")
    return page.show("approval.html", found=found, approval=found.approval)


def decide(page: WebPage) -> Response:
    """Approve or reject a pending approval."""
    id, decision = page.required_exact("id", "the approval"), page.value("decision")
    if decision not in ("approved", "rejected"):
        raise InvalidValue("the decision must be approved or rejected")
    try:
        operations.decide(page.storage, id, decision, page.person)
    except StatusConflict as error:
        raise Conflict(f"{error}{_decided(page, id)}") from None
    return page.go(page.url("/approvals"), f"The approval {id} is {decision}.")


def _decided(page: WebPage, id: str) -> str:
    """Who decided the approval, if that is known, and when."""
    found = decided_approval(page.storage, id)
    if found is None or found.approval.decided_at is None:
        return ""
    who = f" by {found.by}" if found.by else ""
    note = f" ({found.note})" if found.note else ""
    return f"{who} at {page.time(found.approval.decided_at)}{note}"
