"""Snapshots. They cannot be deleted, so each test takes kinds of its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from ..errors import InvalidValue
from ..records import Snapshot
from ..storage import Storage
from .fixtures import DAY, HOUR, START, Contract, FakeClock, examples, fresh_name
from .strategies import json_values, names, spelled, stored


class SnapshotsContract(Contract):
    def test_put_replaces(self, storage: Storage, clock: FakeClock) -> None:
        kind = fresh_name("kind")
        assert storage.snapshots.get(kind) is None
        first = storage.snapshots.put(kind, {"n": 1})
        assert first == Snapshot(kind, {"n": 1}, START)
        assert storage.snapshots.get(kind) == first
        clock.advance(HOUR)
        second = storage.snapshots.put(kind, [2])
        assert second == Snapshot(kind, [2], START + HOUR)
        assert storage.snapshots.get(kind) == second
        assert [one for one in storage.snapshots.list() if one.kind == kind] == [second]
        assert storage.snapshots.put(kind, 3, now=START + DAY).updated_at == START + DAY

    def test_lists_snapshots_by_code_point(self, storage: Storage) -> None:
        stem = fresh_name("kind")
        kinds = [
            f"{stem}{end}" for end in ["", "b", "B", "é", "\uffff", "\U00010000", " ", "_", "-", "10", "9"]
        ]
        for kind in kinds:
            storage.snapshots.put(kind, kind)
        listed = [one.kind for one in storage.snapshots.list()]
        assert listed == sorted(listed)
        assert [kind for kind in listed if kind.startswith(stem)] == sorted(kinds)

    def test_snapshot_payloads_are_copies(self, storage: Storage) -> None:
        kind, payload = fresh_name("kind"), {"list": [1]}
        snapshot = storage.snapshots.put(kind, payload)
        payload["list"].append(2)
        snapshot.payload["list"].append(3)
        read = storage.snapshots.get(kind)
        assert read is not None
        assert read.payload == {"list": [1]}

    @pytest.mark.parametrize("payload", [(1,), float("nan"), {1: 1}, "\x00"])
    def test_a_bad_payload_changes_nothing(self, storage: Storage, payload: Any) -> None:
        kind = fresh_name("kind")
        snapshot = storage.snapshots.put(kind, 1)
        with pytest.raises(InvalidValue, match="payload"):
            storage.snapshots.put(kind, payload)
        assert storage.snapshots.get(kind) == snapshot

    @given(names, json_values())
    @examples(25)
    def test_every_snapshot_comes_back_equal(self, storage: Storage, kind: str, payload: Any) -> None:
        snapshot = storage.snapshots.put(kind, payload)
        assert snapshot.kind == kind
        assert spelled(snapshot.payload) == spelled(stored(payload))
        assert storage.snapshots.get(kind) == snapshot
        read = storage.snapshots.get(kind)
        assert read is not None
        assert spelled(read.payload) == spelled(stored(payload))
