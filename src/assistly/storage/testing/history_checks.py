"""Decides whether a history can be explained by the model.

The calls on one record must fit into one order in which each takes effect between its beginning and its end,
and in which the model gives the same answers. (This is linearizability; the search with a memory of states is
that of Wing and Gong, as improved by Lowe.) Records are independent, so each is checked by itself.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from ..errors import StorageUnavailable
from ..records import Event
from .history import RecordedCall, write_history
from .history_queue import QueueSteps
from .history_steps import Step, steps_of_records
from .model import EPOCH, Model
from .model_state import ModelTables

_MOST_STATES = 200_000


class ImpossibleHistory(AssertionError):
    """No order of the calls explains their answers."""


def check(
    calls: Sequence[RecordedCall], *, loose: bool = False, retry_delay: timedelta = timedelta(minutes=5)
) -> None:
    """Raise ImpossibleHistory, which names a file with the whole history, unless the calls can be explained.

    `retry_delay` is that of the storage's retry policy. `loose` is for callers that read the time from the
    engine, and may be killed: times in jobs are not compared, claims may have been lost with their callers,
    and leases may have been found to have run out by any claim.
    """
    by_record: defaultdict[tuple[str, Any], list[Step]] = defaultdict(list)
    for step in _steps_of(calls, loose=loose):
        by_record[step.record].append(step)
    for record, steps in by_record.items():
        if not explained(steps, retry_delay):
            _fail(calls, f"the calls on {record[0]} {record[1]!r} cannot be explained by any order of them")
    missed = missed_event(calls)
    if missed is not None:
        _fail(calls, missed)


def _steps_of(calls: Sequence[RecordedCall], *, loose: bool) -> Iterator[Step]:
    """The steps of all calls that may have written something, and of those that read single records."""
    effective = [
        call for call in calls if not (call.is_answered and isinstance(call.answer, StorageUnavailable))
    ]
    for call in effective:
        yield from steps_of_records(call)
    yield from QueueSteps(effective, loose=loose).steps()


def _fail(calls: Sequence[RecordedCall], message: str) -> None:
    raise ImpossibleHistory(f"{message}; the history is in {write_history(calls)}")


def explained(steps: Iterable[Step], retry_delay: timedelta = timedelta(minutes=5)) -> bool:
    """Whether there is an order in which the model gives the answers of these steps."""
    ordered = sorted(steps, key=lambda step: step.invoked)
    model = Model(lambda: EPOCH, retry_delay=retry_delay)
    everything = (1 << len(ordered)) - 1
    stack: list[tuple[int, ModelTables]] = [(everything, ModelTables())]
    known: set[tuple[int, str]] = set()
    while stack:
        left, tables = stack.pop()
        if all(step.is_optional for number, step in enumerate(ordered) if left >> number & 1):
            return True
        following = _next_ones(ordered, left)
        for number in following:
            step = ordered[number]
            without = left & ~(1 << number)
            states = [tables] if step.is_optional else []
            model.state.tables = _copy(tables)
            if step.fits(model):
                states.append(model.state.tables)
            for state in states:
                if len(following) > 1:
                    # Another order may lead to the same.
                    place = without, repr(state)
                    if place in known:
                        continue
                    known.add(place)
                stack.append((without, state))
        if len(known) > _MOST_STATES:
            raise AssertionError(f"{len(ordered)} calls on {ordered[0].record} take too long to check")
    return False


def _next_ones(ordered: Sequence[Step], left: int) -> list[int]:
    """The steps that may come next: no other one that is left has ended before their beginning.

    The one that ended first comes last, and so is tried first.
    """
    remaining = [number for number in range(len(ordered)) if left >> number & 1]
    first_end = min(ordered[number].returned for number in remaining)
    possible = [number for number in remaining if ordered[number].invoked <= first_end]
    return sorted(possible, key=lambda number: -ordered[number].returned)


def _copy(tables: ModelTables) -> ModelTables:
    """A copy for the next step. The model replaces records, but for keys and locks, which it changes."""
    return replace(
        tables,
        jobs=dict(tables.jobs),
        sessions=dict(tables.sessions),
        approvals=[*tables.approvals],
        keys=[replace(row) for row in tables.keys],
        nonces=dict(tables.nonces),
        locks={name: replace(row) for name, row in tables.locks.items()},
    )


def missed_event(calls: Iterable[RecordedCall]) -> str | None:
    """Say which event a reader that followed `read_after` has missed, if any."""
    appended: dict[int, Event] = {}
    pages: list[tuple[RecordedCall, int, list[Event]]] = []
    for call in calls:
        if not call.is_answered or isinstance(call.answer, Exception):
            continue
        if call.method in ("events.append", "events.append_many"):
            events = [call.answer] if isinstance(call.answer, Event) else call.answer
            appended.update((event.id, event) for event in events)
        elif call.method == "events.read_after":
            start = call.args[0] if call.args else call.kwargs["id"]
            pages.append((call, start.id if isinstance(start, Event) else start, call.answer))
    known = sorted(appended)
    for call, start, page in pages:
        wanted = call.kwargs.get("event_type")
        ids = [event.id for event in page]
        if ids != sorted(set(ids)):
            return f"{call.caller} read the events {ids} in a wrong order"
        between = known[bisect_right(known, start) : bisect_left(known, ids[-1])] if ids else []
        missed = [id for id in between if wanted in (None, appended[id].event_type) and id not in ids]
        if missed:
            return f"{call.caller} read the events {ids}, and will never see {missed}"
    return None


__all__ = ["ImpossibleHistory", "check", "explained", "missed_event"]
