"""Prunes the storage by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from . import audit

if TYPE_CHECKING:
    from assistly.storage import PruneReport, Storage

    from .audit import Person


def prune(storage: Storage, person: Person, *, force: bool = False) -> PruneReport:
    """Delete what the RETENTION_ settings no longer keep, and return how much that was.

    It leaves an event only if the person has a name or a note, so that cron fills no log. `force` prunes also
    if the last time was less than a minute ago.
    """
    report = storage.prune(force=force)
    if report.ran and (person.by is not None or person.note is not None):
        deleted = {kind: count for kind, count in asdict(report).items() if kind != "ran"}
        audit.record(storage, "prune", person, deleted=deleted)
    return report
