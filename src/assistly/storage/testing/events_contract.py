"""The event log. Ids go on for ever, so each test reads from a mark of its own."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue, NotFound
from ..records import Event, NewEvent
from ..storage import Storage
from .fixtures import DAY, HOUR, START, TICK, Contract, FakeClock, empty, examples, together
from .strategies import json_values, moments, names, near, spelled, stored


class EventsContract(Contract):
    def test_a_new_event(self, storage: Storage) -> None:
        event = storage.events.append("type", {"n": 1})
        assert event == Event(event.id, "type", {"n": 1}, START)
        assert type(event.id) is int
        assert storage.events.list() == [event]
        assert storage.events.append("type", None, created_at=START - DAY).created_at == START - DAY

    def test_ids_grow(self, storage: Storage) -> None:
        ids = [storage.events.append("type", n, created_at=START - n * HOUR).id for n in range(4)]
        assert ids == sorted(set(ids))

    def test_the_id_of_a_removed_event_is_never_given_again(
        self, backend: StorageBackend, storage: Storage
    ) -> None:
        """A reader that follows the log would pass the new event over."""
        newest = 0
        for _ in range(3):
            ids = [
                storage.events.append("type", 1).id,
                *(e.id for e in storage.events.append_many([("type", 2)] * 2)),
            ]
            assert min(ids) > newest
            newest = max(ids)
            backend.retention.delete_older("events", START + HOUR, limit=10)
            assert storage.events.list() == []

    def test_a_batch_is_in_order(self, storage: Storage, clock: FakeClock) -> None:
        clock.advance(HOUR)
        events = storage.events.append_many(
            [
                NewEvent("a", 1),
                ("b", [2]),
                ("c", {"n": 3}, START),
                NewEvent("d", None, START + DAY),
                ("e", 5, None),
            ]
        )
        assert [(event.event_type, event.payload, event.created_at) for event in events] == [
            ("a", 1, START + HOUR),
            ("b", [2], START + HOUR),
            ("c", {"n": 3}, START),
            ("d", None, START + DAY),
            ("e", 5, START + HOUR),
        ]
        assert [event.id for event in events] == sorted(event.id for event in events)
        assert storage.events.read_after(events[0].id) == events[1:]

    def test_a_large_batch(self, storage: Storage) -> None:
        events = storage.events.append_many(("type", n) for n in range(300))
        assert [event.payload for event in events] == list(range(300))
        assert storage.events.read_after(events[0].id - 1, limit=1000) == events

    def test_an_empty_batch(self, storage: Storage) -> None:
        assert storage.events.append_many([]) == []
        assert storage.events.list() == []

    @pytest.mark.parametrize(
        "bad",
        [
            ("", 1),
            (None, 1),
            ("type", float("nan")),
            ("type", (1,)),
            ("type", "\ud800"),
            ("type", 1, START.replace(tzinfo=None)),
            ("type", 1, "now"),
            ("type",),
            ("type", 1, None, 2),
            "text",
            None,
            1,
            ["type", 1],
        ],
    )
    def test_one_bad_event_and_nothing_is_written(self, storage: Storage, bad: Any) -> None:
        with pytest.raises(InvalidValue):
            storage.events.append_many([("good", 1), bad])
        assert storage.events.list() == []

    @pytest.mark.parametrize("events", [None, 1, "text"])
    def test_only_events_are_taken(self, storage: Storage, events: Any) -> None:
        with pytest.raises(InvalidValue):
            storage.events.append_many(events)

    def test_event_payloads_are_copies(self, storage: Storage) -> None:
        payload = {"list": [1]}
        event = storage.events.append("type", payload)
        payload["list"].append(2)
        event.payload["list"].append(3)
        assert storage.events.list()[0].payload == {"list": [1]}
        assert storage.events.read_after(event.id - 1)[0].payload == {"list": [1]}

    @given(names, json_values(), moments)
    @examples(25)
    def test_every_event_comes_back_equal(
        self, backend: StorageBackend, storage: Storage, event_type: str, payload: Any, created_at: datetime
    ) -> None:
        empty(backend)
        event = storage.events.append(event_type, payload, created_at=created_at)
        assert (event.event_type, event.created_at) == (event_type, created_at)
        for (read,) in (storage.events.list(event_type=event_type), storage.events.read_after(event.id - 1)):
            assert read == event
            assert spelled(read.payload) == spelled(stored(payload))


class EventReadingContract(Contract):
    def test_lists_events_newest_first_and_ties_by_insertion(self, storage: Storage) -> None:
        times = [START, START + TICK, START, START - TICK, START + TICK]
        a, b, c, d, e = (storage.events.append("type", n, created_at=time) for n, time in enumerate(times))
        assert storage.events.list() == [e, b, c, a, d]
        assert storage.events.list(limit=2) == [e, b]
        assert storage.events.list(before=b) == storage.events.list(before=b.id) == [c, a, d]
        assert storage.events.list(before=c, limit=1) == [a]
        assert storage.events.list(before=d) == []

    def test_lists_a_type(self, storage: Storage) -> None:
        a, b, c = (storage.events.append(event_type, 1) for event_type in ["x", "y", "x"])
        assert storage.events.list(event_type="x") == [c, a]
        assert storage.events.list(event_type="y") == [b]
        assert storage.events.list(event_type="X") == []
        assert storage.events.list(event_type="x", before=b) == [a]

    def test_a_cursor_outlives_its_event(self, backend: StorageBackend, storage: Storage) -> None:
        cursor = storage.events.append("type", 1)
        empty(backend)
        event = storage.events.append("type", 2, created_at=START - HOUR)
        assert storage.events.list(before=cursor) == [event]
        with pytest.raises(NotFound):
            storage.events.list(before=cursor.id)
        assert storage.events.read_after(cursor.id) == [event]

    def test_reads_on_by_id(self, storage: Storage) -> None:
        events = [storage.events.append("xy"[n % 2], n, created_at=START - n * HOUR) for n in range(5)]
        start = events[0].id - 1
        assert storage.events.read_after(start) == events
        assert storage.events.read_after(start, limit=2) == events[:2]
        assert storage.events.read_after(events[1].id) == events[2:]
        assert storage.events.read_after(events[4].id) == []
        assert storage.events.read_after(start, event_type="y") == [events[1], events[3]]
        assert storage.events.read_after(events[1].id, event_type="x", limit=1) == [events[2]]
        assert storage.events.read_after(start, event_type="z") == []

    def test_reads_from_the_beginning(self, storage: Storage) -> None:
        events = storage.events.append_many([("a", 1), ("b", 2)])
        assert storage.events.read_after(0) == storage.events.read_after(-1) == events
        assert storage.events.read_after(2**63 - 1) == []

    @pytest.mark.parametrize(
        "bad",
        [
            {"limit": 0},
            {"limit": 1001},
            {"limit": True},
            {"event_type": ""},
            {"event_type": 1},
            {"before": "1"},
        ],
    )
    def test_listing_events_checks_its_arguments(self, storage: Storage, bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.events.list(**bad)

    @pytest.mark.parametrize(
        "bad", [{"limit": 0}, {"limit": 1001}, {"event_type": ""}, {"id": "1"}, {"id": None}]
    )
    def test_read_after_checks_its_arguments(self, storage: Storage, bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidValue, match=next(iter(bad))):
            storage.events.read_after(**{"id": 0, **bad})

    @given(st.lists(st.tuples(near(2), st.sampled_from("xy")), max_size=8), st.integers(1, 3))
    @examples(25)
    def test_event_pages_make_up_a_naive_sort(
        self, backend: StorageBackend, storage: Storage, drafts: list[tuple[datetime, str]], limit: int
    ) -> None:
        empty(backend)
        added = storage.events.append_many(
            NewEvent(event_type, n, time) for n, (time, event_type) in enumerate(drafts)
        )
        newest = sorted(added, key=lambda event: (event.created_at, event.payload), reverse=True)
        for event_type in (None, "x"):
            pages: list[Event] = []
            while page := storage.events.list(
                event_type=event_type, limit=limit, before=pages[-1] if pages else None
            ):
                assert len(page) <= limit
                pages += page
            assert pages == [event for event in newest if event_type in (None, event.event_type)]
            read: list[Event] = []
            while page := storage.events.read_after(
                read[-1].id if read else 0, event_type=event_type, limit=limit
            ):
                assert len(page) <= limit
                read += page
            assert read == [event for event in added if event_type in (None, event.event_type)]

    def test_a_follower_misses_nothing(self, storage: Storage) -> None:
        writers, each = 3, 15
        seen: list[Event] = []

        def work(index: int) -> None:
            if index < writers:
                for n in range(each):
                    with storage.transaction() as tx:
                        tx.events.append_many([("type", [index, n, part]) for part in range(n % 3 + 1)])
                return
            for _ in range(60):
                seen.extend(storage.events.read_after(seen[-1].id if seen else 0, limit=7))

        together(writers + 1, work)
        while page := storage.events.read_after(seen[-1].id if seen else 0):
            seen.extend(page)
        assert len(seen) == writers * sum(n % 3 + 1 for n in range(each))
        assert [event.id for event in seen] == sorted({event.id for event in seen})
