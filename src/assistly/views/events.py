"""Searches the event log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from .search import Found

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from assistly.storage import Approval, Event, Storage

_PAGE = 500
_EARLIER = timedelta(minutes=1)
"""How much earlier than the decision its event may be, since two clocks may be involved."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A filter of events: those that match each given field.

    `type` may end with a *, which stands for any text. `by` is the name of the person in the payload.
    """

    type: str | None = None
    by: str | None = None
    since: datetime | None = None

    def accepts(self, event: Event) -> bool:
        """Whether the event matches."""
        return self._has_type(event.event_type) and (self.by is None or _by(event) == self.by)

    def _has_type(self, name: str) -> bool:
        if self.type is None or not self.type.endswith("*"):
            return self.type in (None, name)
        return name.startswith(self.type[:-1])

    @property
    def exact_type(self) -> str | None:
        """The type, unless it ends with a *."""
        return None if self.type is None or self.type.endswith("*") else self.type


def newest(storage: Storage, wanted: EventFilter, *, before: int | None = None) -> Iterator[Event]:
    """Yield all matching events with an id below `before`, newest first. Reads a page at a time."""
    while page := storage.events.list(event_type=wanted.exact_type, before=before, limit=_PAGE):
        for event in page:
            if wanted.since is not None and event.created_at < wanted.since:
                return
            if wanted.accepts(event):
                yield event
        before = page[-1].id


def search(
    storage: Storage, wanted: EventFilter, *, before: int | None = None, limit: int = 100, most: int = 5000
) -> Found[Event]:
    """Return up to `limit` matching events with ids below `before`, newest first.

    Examines about `most` events.
    """
    found: list[Event] = []
    looked_at = 0
    while looked_at < most:
        page = storage.events.list(event_type=wanted.exact_type, before=before, limit=_PAGE)
        for event in page:
            if wanted.since is not None and event.created_at < wanted.since:
                return Found(found, None, searched_all=True)
            if wanted.accepts(event):
                found.append(event)
                if len(found) == limit:
                    return Found(found, event.id, searched_all=True)
        if len(page) < _PAGE:
            return Found(found, None, searched_all=True)
        looked_at += len(page)
        before = page[-1].id
    return Found(found, before, searched_all=False)


def decision(storage: Storage, approval: Approval) -> Event | None:
    """The event of the person who decided an approval; None if a program did."""
    if approval.decided_at is None:
        return None
    since = approval.decided_at - _EARLIER
    for name in ("approve", "reject"):
        for event in newest(storage, EventFilter(f"operator.approvals.{name}", since=since)):
            if isinstance(event.payload, dict) and event.payload.get("approval_id") == approval.id:
                return event
    return None


def _by(event: Event) -> object:
    return event.payload.get("by") if isinstance(event.payload, dict) else None
