"""Mirrors of one storage in another."""

from __future__ import annotations

from typing import Any

import pytest

from ..engine.protocol import StorageBackend
from ..engines.memory import MemoryBackend
from ..errors import InvalidValue
from ..mirroring import mirror
from ..records import Event
from ..storage import Storage
from .fixtures import DAY, START, Contract, FakeClock, dead, open_for_test, posted

_KINDS = ("queue", "state", "logs")


class MirrorContract(Contract):
    @pytest.fixture
    def other(self, clock: FakeClock) -> Storage:
        return open_for_test(MemoryBackend(), clock)

    def test_from_the_engine(self, storage: Storage, other: Storage) -> None:
        _check(storage, other)

    def test_to_the_engine(self, storage: Storage, other: Storage) -> None:
        for kind in _KINDS:
            storage.snapshots.put(kind, None)
        _check(other, storage)

    def test_many_events(self, storage: Storage, other: Storage) -> None:
        storage.events.append_many(("type", n, START - n * DAY) for n in range(1201))
        mirror(storage, other)
        assert [event.payload for event in _all(other)] == list(range(1201))

    def test_a_storage_is_not_its_own_mirror(self, storage: Storage) -> None:
        with pytest.raises(InvalidValue):
            mirror(storage, storage)

    def test_only_storages_are_mirrored(self, backend: StorageBackend, storage: Storage) -> None:
        with pytest.raises(InvalidValue):
            mirror(storage, backend)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue):
            mirror(None, storage)  # type: ignore[arg-type]


def _check(source: Storage, target: Storage) -> None:
    posted(source)
    letter = dead(source)
    source.sessions.put("user", {"n": 1})
    source.events.append_many([("a", {"n": 1}, START - DAY), ("b", None), ("a", [1.0])])
    _check_snapshots(source, target, dead_letters=[letter.id], waiting=[])
    _check_snapshots(source, target, dead_letters=[letter.id], waiting=[])
    source.events.append("c", "new", created_at=START - 2 * DAY)
    source.sessions.put("another user", [2])
    job = source.queue.schedule("x", "a", START + DAY)
    _check_snapshots(source, target, dead_letters=[letter.id], waiting=[job.id])


def _check_snapshots(
    source: Storage, target: Storage, *, dead_letters: list[int], waiting: list[int]
) -> None:
    mirror(source, target)
    assert _told(target) == _told(source)
    queue, state, logs = (_payload(target, kind) for kind in _KINDS)
    assert queue["counts"] == {str(status): count for status, count in source.queue.counts().items()}
    assert [job["id"] for job in queue["dead_letters"]["records"]] == dead_letters
    assert [job["id"] for job in queue["waiting"]["records"]] == waiting
    assert [(session["user_id"], session["data"]) for session in state["sessions"]["records"]] == [
        (session.user_id, session.data) for session in source.sessions.list()
    ]
    newest_first = source.events.list()
    assert logs["last_event_id"] == max(event.id for event in newest_first)
    assert [event["payload"] for event in logs["events"]["records"]] == [
        event.payload for event in newest_first
    ]


def _payload(storage: Storage, kind: str) -> Any:
    snapshot = storage.snapshots.get(kind)
    assert snapshot is not None
    return snapshot.payload


def _told(storage: Storage) -> list[tuple[object, ...]]:
    return [(event.event_type, event.payload, event.created_at) for event in _all(storage)]


def _all(storage: Storage) -> list[Event]:
    events: list[Event] = []
    while page := storage.events.read_after(events[-1].id if events else 0, limit=1000):
        events += page
    return events
