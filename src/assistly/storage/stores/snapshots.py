"""Snapshots: one JSON payload for each kind."""

from __future__ import annotations

import builtins
from datetime import datetime

from .. import validation as check
from ..records import Json, Snapshot
from .context import Context


class Snapshots:
    """`storage.snapshots`: one JSON payload for each kind, such as a dashboard's `queue` or `state`.

    A kind is a name of 1 to 512 bytes of UTF-8; a payload is JSON of at most 1 MiB.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def put(self, kind: str, payload: Json, *, now: datetime | None = None) -> Snapshot:
        """Store or replace the payload of a kind, and return the snapshot.

        Raises InvalidValue for a payload that is not JSON.
        """
        check.name("kind", kind)
        text = check.canonical("payload", payload)
        return self._context.backend.snapshots.put(kind, text, now=self._context.now(now))

    def get(self, kind: str) -> Snapshot | None:
        """Return the snapshot of a kind, or None."""
        return self._context.backend.snapshots.get(check.name("kind", kind))

    def list(self) -> builtins.list[Snapshot]:
        """Return all snapshots, by kind."""
        return [*self._context.backend.snapshots.list()]
