"""Prunes the storage for a person."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from . import audit

if TYPE_CHECKING:
    from assistly.storage import PruneReport, Storage

    from .audit import Person


def prune(storage: Storage, person: Person, *, force: bool = False) -> PruneReport:
    """Delete records that are past their RETENTION_ settings, and return how many.

    Records an event only if the person gave a name or a note, so that cron does not fill the log. `force`
    prunes even if the last prune was less than a minute ago.
    """
    report = storage.prune(force=force)
    if report.ran and (person.by is not None or person.note is not None):
        deleted = {kind: count for kind, count in asdict(report).items() if kind != "ran"}
        audit.record(storage, "prune", person, deleted=deleted)
    return report
