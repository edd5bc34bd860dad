"""One approval, with the person who decided it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .events import decision

if TYPE_CHECKING:
    from assistly.storage import Approval, Storage


@dataclass(frozen=True, slots=True)
class DecidedApproval:
    """An approval, and what is known of its decision.

    `by` and `note` come from the event: None if it is pending, or a program decided it.
    """

    approval: Approval
    by: str | None
    note: str | None


def decided_approval(storage: Storage, id: str) -> DecidedApproval | None:
    """Return the approval with this id, with who decided it and why; None if there is none."""
    approval = storage.approvals.get(id)
    if approval is None:
        return None
    event = decision(storage, approval)
    if event is None:
        return DecidedApproval(approval, None, None)
    by, note = event.payload.get("by"), event.payload.get("note")
    return DecidedApproval(approval, None if by is None else str(by), None if note is None else str(note))
