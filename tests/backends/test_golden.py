"""Databases that earlier versions left are opened, upgraded and worked on: see `golden`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from assistly.storage import (
    ClaimLost,
    ClaimState,
    IdempotencyMismatch,
    Job,
    PostgresBackend,
    SqliteBackend,
    StatusConflict,
    Storage,
    StorageBackend,
)
from assistly.storage.engines.sqlite.driver import sqlite3
from golden.content import LONG_HISTORY, ODD_TEXTS, THEN, TICK, read_all
from golden.making import (
    FOLDER,
    MIGRATIONS,
    database,
    is_filled,
    levels,
    open_postgres,
    open_sqlite,
    records,
)

MOST_BYTES = 100_000
DAY = timedelta(days=1)

ALL = [(engine, level) for engine in ("sqlite", "postgres") for level in levels(engine)]
THERE = [(engine, level) for engine, level in ALL if database(engine, level).exists()]
FILLED = [(engine, level) for engine, level in THERE if is_filled(engine, level)]
DECIDED = [(engine, level) for engine, level in THERE if records(engine, level).name == "decided.json"]


@pytest.mark.parametrize(("engine", "level"), ALL)
def test_every_migration_has_its_database(engine: str, level: str) -> None:
    assert database(engine, level).exists(), "make it with: python -m tests.golden"
    assert database(engine, level).stat().st_size < MOST_BYTES
    assert records(engine, level).exists()


def test_nothing_else_is_kept() -> None:
    kept = {path.name for path in FOLDER.iterdir() if path.suffix in (".gz", ".sql", ".json")}
    named = {path.name for engine, level in ALL for path in (database(engine, level), records(engine, level))}
    assert kept == named


class Golden:
    """One of them, to be opened as often as is wished."""

    def __init__(self, engine: str, level: str, make: Callable[[], StorageBackend]) -> None:
        self.engine = engine
        self.level = level
        self.expected: dict[str, Any] = json.loads(records(engine, level).read_text(encoding="utf-8"))
        self._make = make
        self._opened: list[Storage] = []

    def open(self) -> Storage:
        storage = Storage(self._make(), clock=lambda: THEN, auto_prune=False)
        self._opened.append(storage)
        return storage

    def later_migrations(self) -> list[str]:
        names = sorted(path.name for path in MIGRATIONS.glob(f"*_{self.engine}.sql"))
        return [name for name in names if name > f"{self.level}~"]

    def close(self) -> None:
        for storage in self._opened:
            storage.close()


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Golden]:
    engine, level = request.param
    make: Callable[[], StorageBackend]
    if engine == "sqlite":
        path = tmp_path / "golden.db"
        open_sqlite(level, path)

        def make() -> StorageBackend:
            return SqliteBackend(path)
    else:
        url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("schema")
        open_postgres(level, url, schema)

        def make() -> StorageBackend:
            return PostgresBackend(url, schema=schema)

    golden = Golden(engine, level, make)
    yield golden
    golden.close()


def name_of(one: tuple[str, str]) -> str:
    return "-".join(one)


every = pytest.mark.parametrize("golden", THERE, indirect=True, ids=map(name_of, THERE))
filled = pytest.mark.parametrize("golden", FILLED, indirect=True, ids=map(name_of, FILLED))
decided = pytest.mark.parametrize("golden", DECIDED, indirect=True, ids=map(name_of, DECIDED))


def exact(value: object) -> str:
    """Text that tells 1 from 1.0 and from True."""
    return json.dumps(value, sort_keys=True)


def as_it_was(found: Any, expected: Any, *, fields: bool = False) -> Any:
    """What was found, without the fields of records that the expected ones did not have."""
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [as_it_was(new, old, fields=fields) for new, old in zip(found, expected, strict=True)]
    if fields and isinstance(expected, dict) and isinstance(found, dict):
        return {key: found.get(key) for key in expected}
    return found


def test_fields_that_were_added_are_left_out() -> None:
    new = [{"id": 1, "added": None, "data": {"a": 1, "b": 2}}]
    assert as_it_was(new, [{"id": 1, "data": {}}], fields=True) == [{"id": 1, "data": {"a": 1, "b": 2}}]


@every
def test_every_row_reads_back(golden: Golden) -> None:
    found = read_all(golden.open())
    assert found.keys() >= golden.expected.keys()
    for kind, expected in golden.expected.items():
        assert exact(as_it_was(found[kind], expected, fields=True)) == exact(expected), kind


@every
def test_only_what_is_later_is_applied_and_once(golden: Golden) -> None:
    storage = golden.open()
    applied = storage.migrate()
    if is_filled(golden.engine, golden.level) or golden.engine == "sqlite":
        assert applied == golden.later_migrations()
    else:  # the original system keeps no record of migrations
        assert [name for name in applied if name > f"{golden.level}~"] == golden.later_migrations()
    assert golden.open().migrate() == []


@every
def test_the_schema_becomes_that_of_a_new_database(
    golden: Golden, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    backend = golden.open()._backend
    backend.migrate()
    fresh: StorageBackend
    if isinstance(backend, SqliteBackend):
        fresh = SqliteBackend(tmp_path / "fresh.db")
        fresh.migrate()
        assert sqlite_schema(tmp_path / "golden.db") == sqlite_schema(tmp_path / "fresh.db")
    else:
        database_url, schema = (
            request.getfixturevalue("database_url"),
            request.getfixturevalue("new_schema")(),
        )
        fresh = PostgresBackend(database_url, schema=schema)
        fresh.migrate()
        old = postgres_schema(database_url, request.getfixturevalue("schema"))
        assert old == postgres_schema(database_url, schema)
    fresh.close()


def sqlite_schema(path: Path) -> set[str]:
    """Without the index that the first check of a gap makes."""
    with closing(sqlite3.connect(path)) as connection:
        statements = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {" ".join(text.split()) for name, text in statements if name != "idx_queue_conflict"}


def postgres_schema(url: str, schema: str) -> set[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default "
            "FROM information_schema.columns WHERE table_schema = %s",
            [schema],
        ).fetchall()
        indexes = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = %s", [schema]
        ).fetchall()
        options = connection.execute(
            "SELECT relname, unnest(reloptions) FROM pg_class "
            "WHERE relnamespace = quote_ident(%s)::regnamespace",
            [schema],
        ).fetchall()
    return {
        tuple(value.replace(f"{schema}.", "") if isinstance(value, str) else value for value in row)
        for row in [*columns, *indexes, *options]
    }


def jobs_by_content(storage: Storage) -> dict[str, Job]:
    return {job.content: job for job in storage.queue.list(limit=1000)}


@every
def test_what_is_due_is_claimed_and_settled(golden: Golden) -> None:
    storage = golden.open()
    storage.queue.rescue_expired(limit=1000, now=THEN - 300 * DAY)
    due = sorted(
        (datetime.fromisoformat(job["due_at"]), job["id"])
        for job in golden.expected["jobs"]
        if job["status"] in ("scheduled", "retrying") and datetime.fromisoformat(job["due_at"]) <= THEN
    )
    claimed = storage.queue.claim_due(worker_id="new", limit=1000)
    assert [(job.due_at, job.id) for job in claimed] == due
    for job in claimed:
        posted = storage.queue.mark_posted(storage.queue.begin_publish(job), "remote")
        assert (posted.status, posted.remote_id, posted.retries) == ("posted", "remote", job.retries)
        with pytest.raises(ClaimLost):
            storage.queue.mark_posted(job)
    assert storage.queue.claim_due(worker_id="new") == []


@filled
def test_claims_that_ran_out_are_rescued_and_others_go_on(golden: Golden) -> None:
    storage = golden.open()
    rescued = {job.content: job for job in storage.queue.rescue_expired()}
    assert rescued.keys() == {"left alone", "left while publishing"}
    assert (rescued["left alone"].status, rescued["left alone"].retries) == ("retrying", 1)
    unknown = rescued["left while publishing"]
    assert unknown.status == "dead_letter"
    assert str(unknown.dead_letter_reason).startswith("outcome unknown: ")
    jobs = jobs_by_content(storage)
    begun = storage.queue.begin_publish(jobs["held"])
    assert begun.publish_started_at == THEN
    assert storage.queue.mark_posted(begun, "late").remote_id == "late"
    assert storage.queue.mark_posted(jobs["publishing"]).publish_started_at is not None
    failed = storage.queue.mark_failed(jobs["retried, then held"], "again")
    assert [attempt.number for attempt in failed.attempts] == [1, 2]
    assert storage.queue.extend(storage.queue.claim_due(worker_id="new", limit=1), lease=DAY) != []


@filled
def test_jobs_go_on_from_where_they_were(golden: Golden) -> None:
    storage = golden.open()
    queue, jobs = storage.queue, jobs_by_content(storage)
    long = jobs["long history"]
    assert [attempt.number for attempt in long.attempts] == [*range(LONG_HISTORY - 19, LONG_HISTORY + 1)]
    claimed = {job.id: job for job in queue.claim_due(worker_id="new", limit=1000)}[long.id]
    again = queue.mark_failed(claimed, "once more")
    assert [attempt.number for attempt in again.attempts] == [*range(LONG_HISTORY - 18, LONG_HISTORY + 2)]
    assert queue.schedule("x", "publishing", idempotency_key="publishing") == jobs["publishing"]
    with pytest.raises(IdempotencyMismatch):
        queue.schedule("x", "other", idempotency_key=f"2 {ODD_TEXTS[2]}")
    replayed = queue.replay(jobs["unknown outcome"].id)
    assert replayed is not None
    assert (replayed.status, replayed.retries, replayed.publish_started_at) == ("scheduled", 0, None)
    late = queue.reschedule(jobs["retrying with a limit"].id, THEN - TICK)
    assert late.max_lateness == 3 * DAY
    assert queue.claim_due(worker_id="new", now=THEN + 3 * DAY) != []
    assert queue.find_conflict("far", datetime.fromisoformat("9000-01-01T00:00:00+00:00"), DAY) is not None


@filled
def test_what_is_unknown_is_answered_and_what_waits_is_cancelled(golden: Golden) -> None:
    storage = golden.open()
    queue, jobs = storage.queue, jobs_by_content(storage)
    unknown = jobs["unknown outcome"]
    assert (unknown.outcome_unknown, jobs["too late"].missed, unknown.checkpoint) == (True, True, None)
    others = [job for job in queue.dead_letters() if not job.outcome_unknown and not job.missed]
    assert queue.replay_all() == len(others) > 0
    posted = queue.resolve(unknown.id, posted=True, remote_id="remote-9")
    assert (posted.status, posted.posted_at) == ("posted", unknown.publish_started_at)
    assert queue.cancel(jobs["held"].id).status == "cancelled"
    with pytest.raises(ClaimLost):
        queue.begin_publish(jobs["held"])
    with pytest.raises(StatusConflict):
        queue.cancel(jobs["publishing"].id)
    noted = queue.checkpoint(jobs["publishing"], {"step": 1})
    assert queue.get(noted.id) == noted
    assert noted.checkpoint == {"step": 1}


@decided
def test_decisions_are_kept(golden: Golden) -> None:
    storage = golden.open()
    queue, jobs = storage.queue, jobs_by_content(storage)
    cancelled = jobs["cancelled"]
    assert queue.schedule("x", "cancelled", idempotency_key="cancelled") == cancelled
    again = queue.replay(cancelled.id, scheduled_at=THEN + DAY)
    assert again is not None
    assert again.status == "scheduled"
    unknown = queue.resolve(jobs["in steps, unknown outcome"].id, posted=False)
    assert (unknown.status, unknown.checkpoint) == ("scheduled", {"container": "17 🐝"})
    posted = queue.mark_posted(jobs["in steps 10"])
    assert (posted.checkpoint, jobs["in steps 10"].checkpoint) == (None, "")
    states = {platform.name: platform.paused for platform in storage.platforms.list()}
    assert [name for name, paused in states.items() if paused] == ["paused", "paused for a while"]
    assert storage.platforms.take("limited \u2028 🐝", 100) == 40
    storage.platforms.resume("paused")
    queue.schedule("paused", "goes on")
    assert [job.platform for job in queue.claim_due(worker_id="new", platforms=["paused"])] == ["paused"]


@filled
def test_other_records_go_on(golden: Golden) -> None:
    storage = golden.open()
    assert storage.sessions.put("user 00", 1, expected_version=3).version == 4
    assert storage.approvals.decide("approval 00", "approved").decided_at == THEN
    claims = {key: storage.idempotency.claim(key) for key in ("in progress", "left in progress", "abandoned")}
    assert [claim.state for claim in claims.values()] == [
        ClaimState.IN_PROGRESS,
        ClaimState.ACQUIRED,
        ClaimState.ACQUIRED,
    ]
    assert storage.idempotency.claim("completed", fingerprint="digest").value == {"answer": 42}
    with pytest.raises(IdempotencyMismatch):
        storage.idempotency.claim("completed", fingerprint="other")
    assert storage.nonces.register_many(["one", "none"]) == [False, True]
    storage.metrics.increment("requestCount")
    storage.metrics.observe_latency(121)
    metrics = storage.metrics.read()
    assert (metrics.counters["requestCount"], metrics.latency.count, metrics.latency.max_ms) == (1201, 3, 121)
    assert storage.lock.acquire("fourth") is None
    fences = {name: storage.lock.acquire("fourth", name=name) for name in ("released", "run out")}
    assert [lock and lock.fence for lock in fences.values()] == [2, 2]
    taken = storage.lock.acquire("fourth", now=THEN + 2 * DAY)
    assert taken is not None
    assert taken.fence == 4


@every
def test_ids_go_on_after_the_old_ones(golden: Golden) -> None:
    storage = golden.open()
    removed = is_filled(golden.engine, golden.level)
    last = max((job["id"] for job in golden.expected["jobs"]), default=0)
    assert storage.queue.schedule("x", "new").id == last + 1 + removed
    last = max(event["id"] for event in golden.expected["events"])
    assert storage.events.append("new", None).id > last
    last = max((approval["sequence"] for approval in golden.expected["approvals"]), default=0)
    assert storage.approvals.add("new", {}).sequence > last


@every
def test_pruning_takes_what_is_old(golden: Golden) -> None:
    storage, expected = golden.open(), golden.expected
    report = storage.prune(force=True, now=THEN + 400 * DAY)
    assert report.approvals == len(expected["approvals"])
    assert report.idempotency >= len(expected["idempotency"])
    assert len(storage.sessions.list(limit=1000)) == len(expected["sessions"])
    assert storage.queue.counts() is not None
    storage.maintain()
