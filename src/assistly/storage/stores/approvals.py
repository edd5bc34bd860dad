"""Approvals: requests that wait for a person's decision; each is decided once."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime

from .. import validation as check
from ..engine.protocol import StorageBackend
from ..errors import AlreadyExists, InvalidValue, NotFound, StatusConflict
from ..records import Approval, Json
from .context import Context


class Approvals:
    """`storage.approvals`: requests that wait for a person's decision; each is decided once.

    Ids and statuses are names of 1 to 512 bytes of UTF-8; a payload is JSON of at most 1 MiB. Approvals
    are deleted by age (RETENTION_APPROVALS_DAYS) and by count (RETENTION_MAX_APPROVALS).
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def add(
        self, id: str, payload: Json, *, status: str = "pending", created_at: datetime | None = None
    ) -> Approval:
        """Store an approval with a status (default: `pending`), and return it.

        `created_at` (default: now) determines its place in `list` and its age. Raises AlreadyExists if the id
        is taken; the stored approval is not changed.
        """
        check.name("id", id)
        text = check.canonical("payload", payload)
        check.name("status", status)
        at = self._context.now(check.optional_utc("created_at", created_at))
        approval = self._context.backend.approvals.add(id, text, status=status, created_at=at)
        if approval is None:
            raise AlreadyExists(f"approval {id!r} already exists: decide it, or use another id")
        return approval

    def get(self, id: str) -> Approval | None:
        """Return the approval with this id, or None."""
        return self._context.backend.approvals.get(check.name("id", id))

    def list(
        self, *, status: str | None = None, before: Approval | str | None = None, limit: int = 100
    ) -> builtins.list[Approval]:
        """Return a page of up to `limit` (1 to 1000) approvals, newest first, with one `status` if given.

        `before` is the last approval of the previous page, or its id. Raises NotFound for an id that is no
        longer stored.
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
        patch: Mapping[str, Json] | None = None,
        now: datetime | None = None,
    ) -> Approval:
        """Atomically set the status of an approval that has the status `expected`, and return the approval.

        `patch` is merged into the payload: each of its keys replaces the one with the same name. If several
        callers decide at once, one wins; the others get StatusConflict with the stored approval. Raises
        NotFound if there is no such approval, and InvalidValue for a patch if the payload is not an object.
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
                    f"approval {id!r} is {approval.status!r}, not {expected!r}: it is already decided",
                    approval,
                )
            payload = None if patch is None else _merged(approval, patch)
            decided = backend.approvals.decide(
                id, status, expected=expected, payload=payload, now=self._context.now(now, backend)
            )
            if decided is None:
                raise NotFound(f"approval {id!r} no longer exists")
            return decided

        return self._context.atomically(attempt)

    def _edge(self, before: Approval | str) -> tuple[datetime, int]:
        if isinstance(before, Approval):
            at = check.utc("before.created_at", before.created_at)
            return at, check.identity("before.sequence", before.sequence)
        approval = self._context.backend.approvals.get(check.name("before", before))
        if approval is None:
            raise NotFound(f"there is no approval {before!r} to list from: pass the Approval itself")
        return approval.created_at, approval.sequence


def _merged(approval: Approval, patch: Mapping[str, Json]) -> check.JsonText:
    if not isinstance(approval.payload, dict):
        raise InvalidValue(
            f"patch needs a payload that is an object, but that of approval {approval.id!r} is "
            f"{check.shown(approval.payload)}"
        )
    return check.canonical("the patched payload", {**approval.payload, **patch})
