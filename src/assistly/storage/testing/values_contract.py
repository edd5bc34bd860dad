"""Texts and times as arguments: which values every call accepts, and which it refuses."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import given

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue
from ..records import NewJob, PruneReport
from ..storage import Storage
from .fixtures import (
    DAY,
    END_OF_TIME,
    HOUR,
    RETRY_DELAY,
    START,
    START_OF_TIME,
    TICK,
    Contract,
    FakeClock,
    census,
    dead,
    empty,
    examples,
    fresh_name,
    held,
    open_for_test,
)
from .strategies import moments

_Call = Callable[[Storage, Any], Any]

_NAME_WRITES: dict[str, _Call] = {
    "platform": lambda storage, text: storage.queue.schedule(text, "a"),
    "idempotency_key": lambda storage, text: storage.queue.schedule("x", "a", idempotency_key=text or ""),
    "find_conflict": lambda storage, text: storage.queue.find_conflict(text, START, HOUR),
    "worker_id": lambda storage, text: storage.queue.claim_due(worker_id=text),
    "sessions.get": lambda storage, text: storage.sessions.get(text),
    "sessions.put": lambda storage, text: storage.sessions.put(text, 1),
    "sessions.update": lambda storage, text: storage.sessions.update(text, lambda _: 1),
    "sessions.delete": lambda storage, text: storage.sessions.delete(text),
    "approvals.add": lambda storage, text: storage.approvals.add(text, 1),
    "approvals.status": lambda storage, text: storage.approvals.add("id", 1, status=text),
    "approvals.get": lambda storage, text: storage.approvals.get(text),
    "approvals.decide": lambda storage, text: storage.approvals.decide(text, "approved"),
    "idempotency.claim": lambda storage, text: storage.idempotency.claim(text),
    "fingerprint": lambda storage, text: storage.idempotency.claim("key", fingerprint=text or ""),
    "idempotency.put": lambda storage, text: storage.idempotency.put(text, 1),
    "idempotency.get": lambda storage, text: storage.idempotency.get(text),
    "run_once": lambda storage, text: storage.idempotency.run_once(text, lambda: 1),
    "nonces.register": lambda storage, text: storage.nonces.register(text),
    "nonces.seen": lambda storage, text: storage.nonces.seen(text),
    "metrics.increment": lambda storage, text: storage.metrics.increment(text),
    "lock.acquire": lambda storage, text: storage.lock.acquire(text, ttl=HOUR),
    "lock.name": lambda storage, text: storage.lock.acquire("owner", ttl=HOUR, name=text),
    "lock.current": lambda storage, text: storage.lock.current(text),
    "events.append": lambda storage, text: storage.events.append(text, 1),
    "snapshots.put": lambda storage, text: storage.snapshots.put(text, 1),
    "snapshots.get": lambda storage, text: storage.snapshots.get(text),
    "platforms.get": lambda storage, text: storage.platforms.get(text),
    "platforms.pause": lambda storage, text: storage.platforms.pause(text),
    "platforms.by": lambda storage, text: storage.platforms.pause("x", by=text or ""),
    "platforms.resume": lambda storage, text: storage.platforms.resume(text),
    "platforms.limit": lambda storage, text: storage.platforms.limit(text, 1, HOUR),
    "platforms.take": lambda storage, text: storage.platforms.take(text, 1),
    "platforms.give_back": lambda storage, text: storage.platforms.give_back(text, 1),
}

_TIME_WRITES: dict[str, _Call] = {
    "schedule": lambda storage, time: storage.queue.schedule("x", "a", time),
    "schedule now": lambda storage, time: storage.queue.schedule("x", "a", now=time),
    "schedule_many": lambda storage, time: storage.queue.schedule_many([NewJob("x", "a", time)]),
    "schedule_many now": lambda storage, time: storage.queue.schedule_many([NewJob("x", "a")], now=time),
    "find_conflict": lambda storage, time: storage.queue.find_conflict("x", time, HOUR),
    "claim_due": lambda storage, time: storage.queue.claim_due(worker_id="w", now=time),
    "rescue_expired": lambda storage, time: storage.queue.rescue_expired(now=time),
    "replay_all": lambda storage, time: storage.queue.replay_all(now=time),
    "sessions.put": lambda storage, time: storage.sessions.put("user", 1, now=time),
    "approvals.add": lambda storage, time: storage.approvals.add("id", 1, created_at=time),
    "idempotency.claim": lambda storage, time: storage.idempotency.claim("key", now=time),
    "idempotency.put": lambda storage, time: storage.idempotency.put("key", 1, saved_at=time),
    "nonces.register": lambda storage, time: storage.nonces.register("nonce", time),
    "lock.acquire": lambda storage, time: storage.lock.acquire("owner", ttl=HOUR, now=time),
    "lock.current": lambda storage, time: storage.lock.current(now=time),
    "events.append": lambda storage, time: storage.events.append("type", 1, created_at=time),
    "snapshots.put": lambda storage, time: storage.snapshots.put("kind", 1, now=time),
    "platforms.pause": lambda storage, time: storage.platforms.pause("x", now=time),
    "platforms.limit": lambda storage, time: storage.platforms.limit("x", 1, HOUR, now=time),
    "prune": lambda storage, time: storage.prune(now=time),
}


class _Nowhere(tzinfo):
    """A zone that knows no offset: its times are naive."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


def _refuse(call: _Call, storage: Storage, value: Any) -> None:
    try:
        call(storage, value)
    except InvalidValue:
        return
    pytest.fail(f"{value!r} was taken")


_NOT_NAMES: list[Any] = [
    None,
    "",
    "a\x00b",
    "\x00",
    "\ud800",
    "\udfff",
    "x" * 513,
    "é" * 257,
    b"bytes",
    1,
    True,
    1.5,
    ["a"],
    object,
]


class TextContract(Contract):
    @pytest.mark.parametrize("call", _NAME_WRITES)
    def test_bad_names_are_refused(self, storage: Storage, call: str) -> None:
        before = census(storage)
        for text in _NOT_NAMES:
            _refuse(_NAME_WRITES[call], storage, text)
        assert census(storage) == before

    @pytest.mark.parametrize("text", ["x" * 512, "é" * 256, "😀" * 128])
    def test_the_longest_names(self, storage: Storage, text: str) -> None:
        job = storage.queue.schedule(text, "a", idempotency_key=text)
        assert storage.queue.schedule(text, "a", idempotency_key=text) == job
        (claimed,) = storage.queue.claim_due(worker_id=text, platforms=[text])
        assert storage.queue.mark_posted(claimed, text).remote_id == text
        assert storage.sessions.put(text, 1).user_id == text
        assert storage.approvals.add(text, 1, status=text).status == text
        assert storage.idempotency.claim(text, fingerprint=text).fingerprint == text
        assert storage.nonces.register(text) is True
        assert storage.events.append(text, 1).event_type == text
        assert storage.events.list(event_type=text)[0].event_type == text
        assert storage.snapshots.put(text, 1).kind == text

    @pytest.mark.parametrize("content", ["\x00", "a\x00", "\ud800", "\udfffx", b"bytes", None, 1, ["a"]])
    def test_bad_content_is_refused(self, storage: Storage, content: Any) -> None:
        with pytest.raises(InvalidValue, match="content"):
            storage.queue.schedule("x", content)
        assert storage.queue.list() == []

    def test_the_longest_content(self, storage: Storage) -> None:
        for content in ("x" * 1024 * 1024, "é" * (512 * 1024), ""):
            job = storage.queue.schedule("x", content)
            assert storage.queue.get(job.id) == job
            assert job.content == content
        for content in ("x" * (1024 * 1024 + 1), "é" * (512 * 1024) + "x"):
            with pytest.raises(InvalidValue, match="content"):
                storage.queue.schedule("x", content)
        assert len(storage.queue.list()) == 3

    def test_text_is_data(self, storage: Storage) -> None:
        texts = [
            "%s",
            "%(a)s",
            ":name",
            "?",
            "{t}",
            "'; --",
            '"',
            "\\",
            "$1",
            "null",
            "{}",
            "[]",
            " ",
            "\t",
            "\n",
        ]
        for text in texts:
            assert storage.sessions.put(text, text).user_id == text
            assert storage.nonces.register(text) is True
            assert storage.queue.schedule(text, text, idempotency_key=text).content == text
            assert [job.platform for job in storage.queue.list(platform=text)] == [text]
        assert [session.user_id for session in storage.sessions.list()] == sorted(texts)
        assert {job.platform for job in storage.queue.claim_due(worker_id="%s", platforms=texts)} == set(
            texts
        )


_NOT_TIMES: list[Any] = [
    START.replace(tzinfo=None),
    START.replace(tzinfo=_Nowhere()),
    date(2026, 1, 1),
    "2026-01-01T00:00:00Z",
    1_700_000_000,
    1.5,
    True,
    HOUR,
    START_OF_TIME.replace(tzinfo=timezone(HOUR)),
    END_OF_TIME.replace(tzinfo=timezone(-HOUR)),
]


_MILLISECOND = timedelta(milliseconds=1)


def _at(backend: StorageBackend, storage: Storage, clock: FakeClock, call: str, time: datetime | None) -> Any:
    """What is seen of a call with this time; without one, with the clock's.

    Before it, there is something of every kind that ends a day after START.
    """
    at = clock.time
    empty(backend)
    clock.reset()
    dead(storage)
    held(storage, lease=DAY)
    storage.queue.schedule("y", "due", START + DAY)
    storage.lock.acquire("owner", ttl=DAY)
    storage.nonces.register("old", START - _MILLISECOND)
    clock.time = at
    result = _TIME_WRITES[call](storage, time)
    clock.time = START + DAY
    after = census(storage)
    ages = [storage.prune(now=START + 2 * DAY + ms * _MILLISECOND, force=True) for ms in range(2)]
    return [*_times([result, after, ages])]


def _times(value: Any) -> Iterator[Any]:
    """All times and answers in a value. Ids and fences differ each time."""
    if value is None or isinstance(value, datetime | bool | str | PruneReport):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _times(getattr(value, field.name))
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _times(item)


class TimesContract(Contract):
    @pytest.mark.parametrize("call", _TIME_WRITES)
    def test_bad_times_are_refused(self, storage: Storage, call: str) -> None:
        before = census(storage)
        for time in _NOT_TIMES:
            _refuse(_TIME_WRITES[call], storage, time)
        assert census(storage) == before
        assert storage.idempotency.get("key") is None
        assert storage.nonces.seen("nonce") is False

    @pytest.mark.parametrize("call", [call for call in _TIME_WRITES if call != "find_conflict"])
    def test_none_is_the_clocks_time(
        self, backend: StorageBackend, storage: Storage, clock: FakeClock, call: str
    ) -> None:
        clock.time = START + HOUR
        early = _at(backend, storage, clock, call, None)
        clock.time = START + DAY
        late = _at(backend, storage, clock, call, None)
        assert late == _at(backend, storage, clock, call, START + DAY)
        assert late != early

    def test_a_call_has_one_time(self, backend: StorageBackend, storage: Storage, clock: FakeClock) -> None:
        """However often the clock would be asked during it."""
        ticking = open_for_test(backend, lambda: clock.advance(TICK))
        queue = ticking.queue
        new = [queue.schedule("x", "a"), *queue.schedule_many([NewJob("x", "a"), NewJob("x", "b")])]
        assert all(job.scheduled_at == job.created_at == job.updated_at for job in new)
        assert new[1].created_at == new[2].created_at
        claimed = queue.claim_due(worker_id="w", lease=HOUR)
        assert {(job.lease_until, job.updated_at) for job in claimed} == {
            (claimed[0].updated_at + HOUR, claimed[0].updated_at)
        }
        (extended,) = queue.extend(claimed[:1], lease=DAY)
        assert extended.lease_until == extended.updated_at + DAY
        posted = queue.mark_posted(claimed[0])
        assert posted.posted_at == posted.updated_at
        failed = queue.mark_failed(claimed[1], "busy")
        assert failed.attempts[0].at == failed.updated_at == failed.due_at - RETRY_DELAY
        letter = queue.mark_failed(claimed[2], "refused", retryable=False)
        assert letter.attempts[0].at == letter.updated_at == letter.dead_letter_at
        replayed = queue.replay(letter.id)
        assert replayed is not None
        assert replayed.scheduled_at == replayed.replayed_at == replayed.updated_at
        lock = ticking.lock.acquire("owner", ttl=HOUR, name=fresh_name())
        assert lock is not None
        assert lock.expires_at == lock.acquired_at + HOUR
        put = ticking.idempotency.put_many([("a", 1), ("b", 2)])
        assert put[0].saved_at == put[1].saved_at
        events = ticking.events.append_many([("a", 1), ("b", 2)])
        assert events[0].created_at == events[1].created_at

    def test_the_clock_is_asked_for_every_call(self, storage: Storage, clock: FakeClock) -> None:
        for _ in range(3):
            now = clock.advance(TICK)
            assert storage.events.append("type", 1).created_at == now

    @pytest.mark.parametrize("time", [START.replace(tzinfo=None), "now", None, 0])
    def test_a_clock_must_be_right(self, backend: StorageBackend, storage: Storage, time: Any) -> None:
        wrong = open_for_test(backend, lambda: time)
        with pytest.raises(InvalidValue, match="clock"):
            wrong.events.append("type", 1)
        assert storage.events.list() == []

    @given(moments)
    @examples(40)
    def test_any_time_comes_back_as_utc(
        self, backend: StorageBackend, storage: Storage, time: datetime
    ) -> None:
        empty(backend)
        job = storage.queue.schedule("x", "a", time, now=time)
        storage.approvals.add("id", 1, created_at=time)
        storage.sessions.put("user", 1, now=time)
        storage.events.append("type", 1, created_at=time)
        read, session = storage.queue.get(job.id), storage.sessions.get("user")
        assert read is not None
        assert session is not None
        for back in (
            job.scheduled_at,
            job.created_at,
            read.scheduled_at,
            read.due_at,
            read.updated_at,
            session.updated_at,
            storage.approvals.list()[0].created_at,
            storage.events.list()[0].created_at,
            storage.queue.next_due_at(),
        ):
            assert back is not None
            assert (back.tzinfo, back.utcoffset(), type(back)) == (UTC, timedelta(0), datetime)
            assert (back, back.microsecond) == (time, time.microsecond)

    @pytest.mark.parametrize("time", [START_OF_TIME, END_OF_TIME])
    def test_the_ends_of_time(self, storage: Storage, time: datetime) -> None:
        job = storage.queue.schedule("x", "a", time, now=time)
        assert storage.queue.get(job.id) == job
        (claimed,) = storage.queue.claim_due(worker_id="w", now=time)
        assert storage.queue.mark_posted(claimed, now=time).posted_at == time
        assert storage.approvals.add("id", 1, created_at=time).created_at == time
        assert storage.idempotency.put("key", 1, saved_at=time).saved_at == time
        assert storage.sessions.put("user", 1, now=time).updated_at == time
        # The last of all times is before no cutoff: this nonce stays.
        assert storage.nonces.register(fresh_name("nonce"), time) is True

    def test_a_fold_in_a_zone(self, storage: Storage) -> None:
        try:
            berlin = zoneinfo.ZoneInfo("Europe/Berlin")
        except zoneinfo.ZoneInfoNotFoundError:
            pytest.skip("no time zone database")
        first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)
        second = first.replace(fold=1)
        jobs = [storage.queue.schedule("x", "a", time) for time in (first, second)]
        assert jobs[1].scheduled_at - jobs[0].scheduled_at == HOUR

    def test_without_a_clock_the_engine_tells_the_time(self, backend: StorageBackend) -> None:
        empty(backend)
        storage = open_for_test(backend, None)
        times = [storage.events.append("type", n).created_at for n in range(3)]
        assert all(abs(time - datetime.now(UTC)) < HOUR for time in times)
        assert all(time.tzinfo is UTC for time in times)
        job = held(storage)
        assert job.lease_until is not None
        assert job.lease_until - job.updated_at == timedelta(minutes=5)

    def test_the_engines_clock_moves_in_a_transaction(self, backend: StorageBackend) -> None:
        empty(backend)
        storage = open_for_test(backend, None)
        with storage.transaction() as tx:
            first = tx.events.append("type", 1).created_at
            for _ in range(10_000):
                if tx.events.append("type", 2).created_at > first:
                    break
            else:
                pytest.fail("the time stands still in a transaction")
