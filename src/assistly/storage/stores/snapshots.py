"""Snapshots: one JSON payload for each kind."""

from __future__ import annotations

import builtins
from datetime import datetime

from .. import validation as check
from ..records import Json, Snapshot
from .context import Context


class Snapshots:
    def __init__(self, context: Context) -> None:
        self._context = context

    def put(self, kind: str, payload: Json, *, now: datetime | None = None) -> Snapshot:
        check.name("kind", kind)
        text = check.canonical("payload", payload)
        return self._context.backend.snapshots.put(kind, text, now=self._context.now(now))

    def get(self, kind: str) -> Snapshot | None:
        return self._context.backend.snapshots.get(check.name("kind", kind))

    def list(self) -> builtins.list[Snapshot]:
        """All of them, by kind."""
        return [*self._context.backend.snapshots.list()]
