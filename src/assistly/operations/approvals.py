"""Decides approvals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistly.storage import InvalidValue

from . import audit
from .applying import atomically

if TYPE_CHECKING:
    from assistly.storage import Approval, Storage

    from .audit import Person

_VERBS = {"approved": "approve", "rejected": "reject"}


def decide(storage: Storage, id: str, status: str, person: Person) -> Approval:
    """Approve or reject a pending approval: `status` is approved or rejected.

    Raises NotFound, StatusConflict if it is already decided, and InvalidValue for another status.
    """
    verb = _VERBS.get(status)
    if verb is None:
        raise InvalidValue(f"status must be approved or rejected, not {status!r}")

    def work(tx: Storage) -> Approval:
        approval = tx.approvals.decide(id, status)
        audit.record(tx, f"approvals.{verb}", person, approval_id=id)
        return approval

    return atomically(storage, work)
