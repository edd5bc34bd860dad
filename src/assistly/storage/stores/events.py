"""The append-only event log."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from datetime import datetime

from .. import validation as check
from ..batching import BatchedCall
from ..errors import NotFound
from ..records import Event, Json, NewEvent
from .context import Context

Appending = tuple[str, check.JsonText, datetime | None]
"""The validated type, payload and time of an event; None stands for the time of the call."""


class Events:
    """`storage.events`: an append-only log that readers can follow without missing an event.

    An event type is a name of 1 to 512 bytes of UTF-8; a payload is JSON of at most 1 MiB.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._batched = BatchedCall(context, _append_single, _append_batch, lambda request: len(request[1]))

    def append(self, event_type: str, payload: Json, *, created_at: datetime | None = None) -> Event:
        """Append an event, and return it with its id.

        `created_at` (default: now) orders `list`, but not `read_after`, which goes by id. Raises
        InvalidValue for a wrong type, payload or time.
        """
        return self._batched.call(checked(NewEvent(event_type, payload, created_at)))

    def append_many(
        self, events: Iterable[NewEvent | tuple[str, Json] | tuple[str, Json, datetime | None]]
    ) -> builtins.list[Event]:
        """Append events in order, all or nothing, and return them. Tuples hold the fields of NewEvent."""
        requests = [checked(event) for event in check.items("events", events, "NewEvent")]
        return _append_batch(self._context, requests, self._context.now(None)) if requests else []

    def list(
        self, *, event_type: str | None = None, before: Event | int | None = None, limit: int = 100
    ) -> builtins.list[Event]:
        """Return a page of up to `limit` (1 to 1000) events, newest first by (created_at, id).

        `event_type` selects one type. `before` is the last event of the previous page, or its id. Raises
        NotFound for an id that is no longer stored.
        """
        check.optional_name("event_type", event_type)
        check.limit(limit)
        edge = None if before is None else self._edge(before)
        return [*self._context.backend.events.list(event_type=event_type, before=edge, limit=limit)]

    def read_after(
        self, id: Event | int, *, event_type: str | None = None, limit: int = 100
    ) -> builtins.list[Event]:
        """Return a page of up to `limit` (1 to 1000) events with a higher id, lowest first.

        Start with 0, and continue with the last event of each page: no event is missed, even while others
        append, since an event is held back until no event with a lower id can appear. `event_type` selects
        one type.
        """
        start = check.identity("id", id.id if isinstance(id, Event) else id)
        check.optional_name("event_type", event_type)
        check.limit(limit)
        return [*self._context.backend.events.read_after(start, event_type=event_type, limit=limit)]

    def _edge(self, before: Event | int) -> tuple[datetime, int]:
        if isinstance(before, Event):
            return check.utc("before.created_at", before.created_at), check.identity("before.id", before.id)
        event = self._context.backend.events.get(check.identity("before", before))
        if event is None:
            raise NotFound(f"there is no event {check.shown(before)} to list from: pass the Event itself")
        return event.created_at, event.id


def checked(event: object) -> Appending:
    """Validate the arguments of `append`."""
    if isinstance(event, tuple) and len(event) in (2, 3):
        event = NewEvent(*event)
    new = check.instance("events", event, NewEvent)
    return (
        check.name("event_type", new.event_type),
        check.canonical("payload", new.payload),
        check.optional_utc("created_at", new.created_at),
    )


def _append_single(context: Context, request: Appending) -> Event:
    return _append_batch(context, [request], context.now(request[2]))[0]


def _append_batch(context: Context, requests: Sequence[Appending], now: datetime) -> builtins.list[Event]:
    rows = [(event_type, text, created_at or now) for event_type, text, created_at in requests]
    return [*context.backend.events.append(rows)]
