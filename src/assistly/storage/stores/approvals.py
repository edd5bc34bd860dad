"""Approvals: something waits for a person, and is decided once."""

from __future__ import annotations

import builtins
from datetime import datetime

from .. import validation as check
from ..engine.protocol import StorageBackend
from ..errors import AlreadyExists, InvalidValue, NotFound, StatusConflict
from ..records import Approval, Json
from .context import Context


class Approvals:
    def __init__(self, context: Context) -> None:
        self._context = context

    def add(
        self, id: str, payload: Json, *, status: str = "pending", created_at: datetime | None = None
    ) -> Approval:
        """Raises AlreadyExists, and leaves the stored one as it is."""
        check.name("id", id)
        text = check.canonical("payload", payload)
        check.name("status", status)
        at = self._context.now(check.optional_utc("created_at", created_at))
        approval = self._context.backend.approvals.add(id, text, status=status, created_at=at)
        if approval is None:
            raise AlreadyExists(f"there is an approval {id!r} already: decide it, or take another id")
        return approval

    def get(self, id: str) -> Approval | None:
        return self._context.backend.approvals.get(check.name("id", id))

    def list(
        self, *, status: str | None = None, before: Approval | str | None = None, limit: int = 100
    ) -> builtins.list[Approval]:
        """A page, newest first. `before`: the last approval of the page before.

        Its id will do while it is stored; NotFound otherwise.
        """
        check.optional_name("status", status)
        check.limit(limit)
        edge = None if before is None else self._edge(before)
        return [*self._context.backend.approvals.list(status=status, before=edge, limit=limit)]

    def decide(
        self,
        id: str,
        status: str,
        *,
        expected: str = "pending",
        patch: dict[str, Json] | None = None,
        now: datetime | None = None,
    ) -> Approval:
        """Give it a status, if it has the `expected` one; `patch` is merged shallowly into the payload.

        Of any number of deciders one wins; the others get StatusConflict with the approval as
        it is. Raises NotFound, and InvalidValue for a patch to a payload that is no object.
        """
        check.name("id", id)
        check.name("status", status)
        check.name("expected", expected)
        if patch is not None:
            check.canonical_object("patch", patch)

        def attempt(backend: StorageBackend) -> Approval:
            approval = backend.approvals.get(id, lock=True)
            if approval is None:
                raise NotFound(f"there is no approval {id!r}")
            if approval.status != expected:
                raise StatusConflict(
                    f"approval {id!r} is {approval.status!r}, not {expected!r}: someone decided it before",
                    approval,
                )
            payload = None if patch is None else _merged(approval, patch)
            decided = backend.approvals.decide(
                id, status, expected=expected, payload=payload, now=self._context.now(now)
            )
            if decided is None:
                raise NotFound(f"there is no approval {id!r} any more")
            return decided

        return self._context.atomically(attempt)

    def _edge(self, before: Approval | str) -> tuple[datetime, int]:
        if isinstance(before, Approval):
            return before.created_at, before.sequence
        approval = self._context.backend.approvals.get(check.name("before", before))
        if approval is None:
            raise NotFound(f"there is no approval {before!r} to list from: pass the Approval itself")
        return approval.created_at, approval.sequence


def _merged(approval: Approval, patch: dict[str, Json]) -> check.JsonText:
    if not isinstance(approval.payload, dict):
        raise InvalidValue(
            f"patch needs a payload that is an object, and that of approval {approval.id!r} is not"
        )
    return check.canonical("the patched payload", approval.payload | patch)
