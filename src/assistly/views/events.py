"""Looks for events in the log."""

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
"""How much earlier than the decision its event may be, since two clocks may have been read."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are meant: all that match each of these that is given.

    `type` may end with a *, which stands for any text. `by` is the name of who made it, in the payload.
    """

    type: str | None = None
    by: str | None = None
    since: datetime | None = None

    def accepts(self, event: Event) -> bool:
        """Whether it has the type, and was made by whom."""
        return self._has_type(event.event_type) and (self.by is None or _by(event) == self.by)

    def _has_type(self, name: str) -> bool:
        if self.type is None or not self.type.endswith("*"):
            return self.type in (None, name)
        return name.startswith(self.type[:-1])

    @property
    def exact_type(self) -> str | None:
        """The type, if it is only one."""
        return None if self.type is None or self.type.endswith("*") else self.type


def newest(storage: Storage, wanted: EventFilter, *, before: int | None = None) -> Iterator[Event]:
    """Yield all events that are meant with an id below `before`, newest first. It reads a page at a time."""
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
    """Return up to `limit` events that are meant with ids below `before`, the newest first.

    About `most` events are looked at.
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
    """The event of `assistly approvals` that decided an approval; None if a program did it."""
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
