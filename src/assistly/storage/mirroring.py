"""Copies the state of one storage into another, for dashboards and other readers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from time import monotonic

from .errors import Conflict, InvalidValue
from .records import Event, Json
from .storage import Storage
from .validation import canonical, instance

_PAGE = 500
_TRANSACTION_SECONDS = 0.25
"""After this time, a transaction copies no further page: other writers of an SQLite target wait for it."""

_SNAPSHOT_BYTES = 900 * 1024
_MOST_JOBS = 500
_LOCK = "assistly.mirror"
_LOCK_TTL = timedelta(minutes=5)


def mirror(source: Storage, target: Storage) -> int:
    """Write the state of `source` into snapshots of `target`, copy its new events, and return their number.

    The kinds of snapshot are `queue` (counts, active jobs and dead letters), `state` (sessions, approvals,
    metrics, lock) and `logs` (the newest events). A snapshot holds the records that fit into 900 KiB, and
    counts the others as `omitted`. Each event is copied once, even if several callers mirror the source. A
    target mirrors one source. Raises Conflict while another mirror writes to the target, and InvalidValue if
    source and target are the same storage.
    """
    instance("source", source, Storage)
    instance("target", target, Storage)
    if source._backend is target._backend:  # noqa: SLF001 - two storages may share an engine
        raise InvalidValue("source and target are the same storage")
    copied = _copy_events(source, target)
    with target.transaction() as tx:
        tx.snapshots.put("queue", _queue(source))
        tx.snapshots.put("state", _state(source))
    return copied


def _copy_events(source: Storage, target: Storage) -> int:
    copied = 0
    owner = os.urandom(8).hex()
    is_done = False
    while not is_done:
        with target.transaction() as tx:
            # Taken inside the transaction, the lock makes a second mirror wait for its commit.
            lock = tx.lock.acquire(owner, name=_LOCK, ttl=_LOCK_TTL)
            if lock is None:
                raise Conflict("another mirror is writing to this target: try again when it has finished")
            count, is_done = _copy_pages(source, tx)
            copied += count
            tx.lock.release(lock)
    return copied


def _copy_pages(source: Storage, tx: Storage) -> tuple[int, bool]:
    """Copy pages of events; return how many events that were, and whether they were the last ones."""
    snapshot = tx.snapshots.get("logs")
    logs = snapshot.payload if snapshot and isinstance(snapshot.payload, dict) else {}
    cursor = logs.get("last_event_id", 0)
    copied = 0
    until = monotonic() + _TRANSACTION_SECONDS
    while True:
        events = source.events.read_after(cursor, limit=_PAGE)
        if events:
            cursor = events[-1].id
            tx.events.append_many((event.event_type, event.payload, event.created_at) for event in events)
        copied += len(events)
        if len(events) < _PAGE:
            tx.snapshots.put("logs", _logs(source, cursor))
            return copied, True
        if monotonic() >= until:
            # Only the last transaction reads the newest events.
            tx.snapshots.put("logs", {**logs, "last_event_id": cursor})
            return copied, False


def _logs(source: Storage, cursor: int) -> Json:
    newest: list[Event] = source.events.list(limit=_PAGE)
    return {"last_event_id": cursor, "events": _fitting(newest, _SNAPSHOT_BYTES)}


def _queue(source: Storage) -> Json:
    next_due_at = source.queue.next_due_at()
    waiting = (
        job
        for status in ("processing", "retrying", "scheduled")
        for job in source.queue.list(status=status, limit=_MOST_JOBS)
    )
    return {
        "counts": {str(status): count for status, count in source.queue.counts().items()},
        "next_due_at": next_due_at.isoformat() if next_due_at else None,
        "waiting": _fitting(waiting, _SNAPSHOT_BYTES // 2),
        "dead_letters": _fitting(source.queue.dead_letters(limit=_MOST_JOBS), _SNAPSHOT_BYTES // 2),
    }


def _state(source: Storage) -> Json:
    lock = source.lock.current()
    return {
        "sessions": _fitting(source.sessions.list(limit=_PAGE), _SNAPSHOT_BYTES // 3),
        "approvals": _fitting(source.approvals.list(limit=_PAGE), _SNAPSHOT_BYTES // 3),
        "metrics": _plain(asdict(source.metrics.read())),
        "lock": _plain(asdict(lock)) if lock else None,
    }


def _fitting(records: Iterable[object], budget: int) -> Json:
    kept: list[Json] = []
    omitted = 0
    for value, size in _sized(records):
        if value is None or size > budget:
            omitted += 1
            continue
        budget -= size
        kept.append(value)
    return {"records": kept, "omitted": omitted}


def _sized(records: Iterable[object]) -> Iterator[tuple[Json, int]]:
    for record in records:
        value = _plain(asdict(record))  # type: ignore[call-overload]
        try:
            # Two levels deeper, as in the snapshot: the depth of JSON is limited.
            yield value, len(canonical("record", {"": {"": [value]}}).encode())
        except InvalidValue:
            yield None, 0


def _plain(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, str) else value
