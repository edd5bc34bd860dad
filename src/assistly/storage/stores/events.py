"""The append-only event log."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from datetime import datetime

from .. import validation as check
from ..errors import NotFound
from ..records import Event, Json, NewEvent
from .context import Context
from ..batching import BatchedCall

Appending = tuple[str, check.JsonText, datetime | None]


class Events:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._appending = BatchedCall(context, _append_one, _append_all, lambda request: len(request[1]))

    def append(self, event_type: str, payload: Json, *, created_at: datetime | None = None) -> Event:
        return self._appending.call(checked(NewEvent(event_type, payload, created_at)))

    def append_many(
        self, events: Iterable[NewEvent | tuple[str, Json] | tuple[str, Json, datetime | None]]
    ) -> builtins.list[Event]:
        """All or nothing, in order; tuples stand for the fields of NewEvent."""
        if not isinstance(events, Iterable) or isinstance(events, str | bytes):
            raise check.wrong_type("events", "an iterable of NewEvent", events)
        requests = [checked(event) for event in events]
        return _append_all(self._context, requests, self._context.now(None)) if requests else []

    def list(
        self, *, event_type: str | None = None, before: Event | int | None = None, limit: int = 100
    ) -> builtins.list[Event]:
        """A page by (created_at, id), newest first. `before`: the last event of the page before.

        Its id will do while it is stored; NotFound otherwise.
        """
        check.optional_name("event_type", event_type)
        check.limit(limit)
        edge = None if before is None else self._edge(before)
        return [*self._context.backend.events.list(event_type=event_type, before=edge, limit=limit)]

    def read_after(
        self, id: Event | int, *, event_type: str | None = None, limit: int = 100
    ) -> builtins.list[Event]:
        """A page by id, oldest first; start with 0, go on with the last event.

        A reader that follows it misses none, also while others append: an event is held back
        until no event with a lower id can appear any more.
        """
        start = id.id if isinstance(id, Event) else check.identity("id", id)
        check.optional_name("event_type", event_type)
        check.limit(limit)
        return [*self._context.backend.events.read_after(start, event_type=event_type, limit=limit)]

    def _edge(self, before: Event | int) -> tuple[datetime, int]:
        if isinstance(before, Event):
            return before.created_at, before.id
        event = self._context.backend.events.get(check.identity("before", before))
        if event is None:
            raise NotFound(f"there is no event {before} to list from: pass the Event itself")
        return event.created_at, event.id


def _append_one(context: Context, request: Appending) -> Event:
    return _append_all(context, [request], context.now(request[2]))[0]


def _append_all(context: Context, requests: Sequence[Appending], now: datetime) -> builtins.list[Event]:
    rows = [(event_type, text, created_at or now) for event_type, text, created_at in requests]
    return [*context.backend.events.append(rows)]


def checked(event: object) -> Appending:
    if isinstance(event, tuple) and len(event) in (2, 3):
        event = NewEvent(*event)
    new = check.instance("events", event, NewEvent)
    return (
        check.name("event_type", new.event_type),
        check.canonical("payload", new.payload),
        check.optional_utc("created_at", new.created_at),
    )
