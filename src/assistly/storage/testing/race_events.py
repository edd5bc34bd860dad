"""Races over events: writers commit in any order or not at all, and readers follow them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ..records import Event
from ..storage import Storage
from .fixtures import Undo
from .races import TIMEOUT, Racer

SINGLE = "single"
BATCH = "batch"
END = "the end"

_MOST_AT_ONCE = 4


@dataclass(frozen=True)
class Written:
    """The committed events."""

    events: list[Event]


@dataclass(frozen=True)
class Read:
    """What a reader of one type, or of all, saw in its order."""

    event_type: str | None
    events: list[Event]


def write_or_follow(racer: Racer, followed: Sequence[str | None], times: int, limit: int) -> Written | Read:
    """The first racers each follow a type of event, or all; the others write."""
    if racer.number < len(followed):
        event_type = followed[racer.number]
        return Read(event_type, _follow(racer.storage, event_type, racer.size - len(followed), limit))
    return Written(_write(racer.storage, racer.name, times))


def _follow(storage: Storage, event_type: str | None, writers: int, limit: int) -> list[Event]:
    """Until each writer's last event was seen: whatever was committed before has come by then."""
    seen: list[Event] = []
    ended = 0
    deadline = time.monotonic() + TIMEOUT
    while ended < writers:
        page = storage.events.read_after(seen[-1] if seen else 0, event_type=event_type, limit=limit)
        seen += page
        ended += sum(event.payload == END for event in page)
        assert time.monotonic() < deadline, f"only {ended} of {writers} writers were seen to end"
    return seen


def _write(storage: Storage, name: str, times: int) -> list[Event]:
    random = Random(name)
    events: list[Event] = []
    for _ in range(times):
        way = random.choice([_append, _append_many, _append_in_transaction, _append_in_vain])
        events += way(storage, random.randint(1, _MOST_AT_ONCE))
    return [*events, storage.events.append(SINGLE, END)]


def _append(storage: Storage, number: int) -> list[Event]:
    return [storage.events.append(SINGLE, number)]


def _append_many(storage: Storage, number: int) -> list[Event]:
    return storage.events.append_many([(BATCH, number)] * number)


def _append_in_transaction(storage: Storage, number: int) -> list[Event]:
    """One by one: others get ids in between, and some commit before."""
    with storage.transaction() as tx:
        return [event for _ in range(number) for event in _append(tx, number)]


def _append_in_vain(storage: Storage, number: int) -> list[Event]:
    try:
        with storage.transaction() as tx:
            _append_many(tx, number)
            raise Undo
    except Undo:
        return []
