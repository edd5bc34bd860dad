"""With 100,000 rows of each kind, no statement reads a table from one end to the other."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from assistly.storage import (
    Failed,
    IdempotencyMismatch,
    JobStatus,
    NewEvent,
    NewJob,
    Posted,
    PostgresBackend,
    Released,
    RetentionPolicy,
    ScheduleConflict,
    Snoozed,
    SqliteBackend,
    Storage,
    StorageBackend,
)
from assistly.storage.engine.values import KeyClaim
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.pruning import _LARGEST_BATCH as LARGEST_BATCH
from assistly.storage.validation import canonical
from backends.plans import NOW, ROWS, PostgresWatch, Seen, SqliteWatch, Watch, fill_postgres, fill_sqlite

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def full_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "assistly.db"
    backend = SqliteBackend(path)
    fill_sqlite(backend)
    backend.close()
    return path


@pytest.fixture(scope="module")
def full_schema(database_url: str, new_schema: Callable[[], str]) -> str:
    schema = new_schema()
    fill_postgres(database_url, schema)
    return schema


@pytest.fixture(params=["sqlite", "sqlite analyzed", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Storage, Watch]]:
    backend: StorageBackend
    if request.param == "postgres":
        schema = request.getfixturevalue("full_schema")
        backend = PostgresBackend(request.getfixturevalue("database_url"), pool_size=2, schema=schema)
    else:
        path = tmp_path / "copy.db"
        shutil.copy(request.getfixturevalue("full_file"), path)
        if request.param == "sqlite analyzed":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("ANALYZE")
        backend = SqliteBackend(path)
    retention = RetentionPolicy(posted_age=5 * DAY, events_age=DAY, sessions_age=DAY, nonces_age=DAY)
    with Storage(backend, clock=lambda: NOW, retention=retention, auto_prune=False) as storage:
        storage.ping()
        yield storage, PostgresWatch() if request.param == "postgres" else SqliteWatch()


def schedule(storage: Storage) -> None:
    queue = storage.queue
    queue.schedule("platform 1", "plain")
    queue.schedule("platform 1", "keyed", idempotency_key="new key")
    with pytest.raises(IdempotencyMismatch):
        queue.schedule("platform 1", "another", idempotency_key="key 1")
    with pytest.raises(ScheduleConflict):
        queue.schedule("platform 5", "too near", NOW + 75 * MINUTE, min_gap=5 * MINUTE)
    free = queue.schedule("platform 5", "apart", NOW + 200 * DAY, min_gap=MINUTE)
    queue.schedule_many(
        [NewJob("platform 2", f"post {n}", NOW + n * DAY, f"batch {n}", MINUTE) for n in range(100, 103)]
        + [NewJob("platform 2", f"post {n}", NOW, f"more {n}") for n in range(20)]
    )
    queue.reschedule(free.id, NOW + 300 * DAY, content="moved", min_gap=MINUTE)
    queue.find_conflict("platform 5", NOW + 75 * MINUTE, 5 * MINUTE)
    queue.find_conflict("nowhere", NOW, 1000 * DAY)
    queue.get(50_000)
    queue.next_due_at()
    queue.wait(0)
    for platforms in (["platform 7"], ["platform 7", "platform 8"]):
        queue.wait(0, platforms=platforms)
    page = queue.upcoming(limit=10)
    queue.upcoming(until=NOW, after=page[-1], limit=10)
    queue.upcoming(platform="platform 7", after=page[-1], limit=10)
    queue.schedule_many([NewJob("platform 1", "one of three")] * 3, returning="ids")


def work(storage: Storage) -> None:
    queue = storage.queue
    queue.rescue_expired(limit=10)
    first, second, third, fourth = queue.claim_due(worker_id="w", limit=4)
    queue.extend([first, second], lease=MINUTE)
    queue.begin_publish(first)
    queue.mark_posted(first, "remote")
    queue.mark_failed(second, "refused", retryable=False)
    queue.snooze(third, NOW + MINUTE)
    queue.release(fourth)
    for size in (1, 100):
        jobs = queue.claim_due(worker_id="w", limit=size, platforms=["platform 7", "platform 8"])
        assert len(jobs) == size
        queue.settle(
            [
                (Posted(job), Failed(job, "refused"), Snoozed(job, NOW + DAY), Released(job))[
                    job.id // 100 % 4
                ]
                for job in jobs
            ]
        )
    dead = queue.dead_letters(limit=2)
    queue.replay(dead[0].id)
    queue.replay_all(limit=3)
    queue.remove(dead[1].id)
    publish_in_steps(storage)


def publish_in_steps(storage: Storage) -> None:
    queue = storage.queue
    for posted in (True, False):
        (job,) = queue.claim_due(worker_id="w", limit=1)
        queue.checkpoint(queue.begin_publish(job), {"step": 1})
        queue.mark_unknown(job, "no answer")
        queue.resolve(job.id, posted=posted)
    (job,) = queue.claim_due(worker_id="w", limit=1)
    queue.cancel(job.id)
    queue.replay(job.id)
    queue.list(status="cancelled", limit=10)


def keep_records(storage: Storage) -> None:
    storage.sessions.get("user 500")
    storage.sessions.put("user 500", {"step": 1})
    storage.sessions.put("user 500", {"step": 2}, expected_version=2)
    storage.sessions.put("new user", {}, expected_version=0)
    storage.sessions.update("user 501", lambda data: [data])
    storage.sessions.delete("user 502")
    storage.sessions.list(limit=10)
    storage.sessions.list(after="user 503")
    storage.approvals.add("new", {})
    for status in (None, "pending", "approved", "unheard of"):
        page = storage.approvals.list(status=status)
        if page:
            storage.approvals.list(status=status, before=page[-1])
    storage.approvals.get("approval 500")
    storage.approvals.decide("approval 5000", "approved", patch={"by": "me"})
    storage.snapshots.put("kind 500", {})
    storage.snapshots.get("kind 501")
    storage.nonces.register("nonce 500")
    storage.nonces.register("new nonce")
    storage.nonces.register_many(["nonce 502", "newer nonce"])
    storage.nonces.seen("nonce 501")


def coordinate(storage: Storage) -> None:
    keys = storage.idempotency
    keys.claim("key 500", fingerprint="f")
    keys.complete(keys.claim("new key", fingerprint="f", lease=MINUTE), 1)
    keys.abandon(keys.claim("newer key"))
    keys.put("key 501", 2)
    keys.put_many([("key 503", 1), ("key in a batch", 2)])
    later = NOW + MINUTE
    claims = [KeyClaim(key, None, token, later, NOW) for token, key in enumerate(["key 504", "free key"])]
    storage._context.backend.idempotency.claim_many(claims)
    keys.get("key 502")
    keys.peek("key 505")
    keys.forget("key 505")
    keys.run_once("newest key", lambda: 3)
    storage.lock.acquire("owner", name="lock 500")
    storage.lock.acquire("other", name="lock 500")
    lock = storage.lock.acquire("me", name="a new one")
    assert lock is not None
    storage.lock.renew(lock)
    storage.lock.current("a new one")
    storage.lock.release(lock)
    storage.metrics.increment("requests")
    storage.metrics.observe_latency(1.5)
    storage.metrics.read()


def follow_events(storage: Storage) -> None:
    storage.events.append("type 1", {})
    storage.events.append_many([NewEvent("type 2", n) for n in range(10)])
    for event_type in (None, "type 3", "unheard of"):
        page = storage.events.list(event_type=event_type)
        if page:
            storage.events.list(event_type=event_type, before=page[-1])
        for start in (0, 50_000, 100_000):
            storage.events.read_after(start, event_type=event_type, limit=10)


def keep_documents(storage: Storage) -> None:
    documents = storage._context.backend.documents
    data = canonical("data", {})
    for version in (None, 0, 1):
        documents.put("collection 1", "key 500", data, expected_version=version, now=NOW)
        documents.put("a new one", f"key {version}", data, expected_version=version, now=NOW)
    documents.get("collection 1", "key 4")
    documents.list("collection 1", after=None, limit=10)
    documents.list("collection 1", after="key 50", limit=10)
    documents.list("unheard of", after=None, limit=10)
    documents.delete("collection 1", "key 7")
    with storage.transaction() as tx:
        tx._context.backend.documents.get("collection 1", "key 10", lock=True)


def share_platforms(storage: Storage) -> None:
    storage.platforms.pause("platform 3", until=NOW + MINUTE)
    storage.platforms.pause_at_least("platform 3", NOW + DAY)
    storage.platforms.limit("platform 4", 100, MINUTE)
    storage.platforms.take("platform 4", 10)
    storage.platforms.give_back("platform 4", 1)
    storage.platforms.available("platform 4")
    storage.platforms.get("platform 3")
    storage.platforms.list()
    storage.platforms.resume("platform 3")


HOT = [schedule, work, keep_records, coordinate, follow_events, keep_documents, share_platforms]


def look_around(storage: Storage) -> None:
    """What an operator asks for; jobs of a platform in whatever status have no index of their own."""
    queue = storage.queue
    queue.counts()
    for status in (None, *JobStatus):
        for platform in (None, "platform 5", *(["nowhere"] if status else [])):
            for after in (None, 50_000):
                queue.list(status=status, platform=platform, after=after, limit=50)
    queue.replay_all(platform="platform 4", limit=10)
    queue.replay_all(platform="platform 4")
    queue.replay_all(limit=10, unknown=True)
    queue.replay_all(limit=10, missed=True)
    queue.replay_all(platform="platform 4", unknown=True, missed=True)
    queue.counts(posted=False)
    for platform in ("platform 5", "nowhere"):
        queue.wait(0, platforms=[platform])
        queue.upcoming(platform=platform, limit=10)


def refuse(entries: list[Seen]) -> None:
    if entries:
        pytest.fail("\n\n".join(map(str, entries)), pytrace=False)


def test_hot_statements_touch_few_rows(place: tuple[Storage, Watch]) -> None:
    storage, watch = place
    with watch.watching() as seen:
        for part in HOT:
            part(storage)
        with storage.transaction() as transaction:
            transaction.queue.schedule("platform 1", "inside", NOW + 400 * DAY, min_gap=MINUTE)
    assert len({entry.statement for entry in seen}) > 50
    refuse([entry for entry in seen if entry.scans])
    refuse([entry for entry in seen if entry.work > watch.most_work])


def test_a_claim_beside_fifty_pauses(place: tuple[Storage, Watch]) -> None:
    storage, watch = place
    for number in range(50):
        storage.platforms.pause(f"paused {number}", until=NOW + number * MINUTE if number % 2 else None)
    storage.queue.schedule_many(NewJob("paused 0", "no", NOW - 400 * DAY) for _ in range(20))
    with watch.watching() as seen:
        for limit in (1, 100):
            for platforms in (None, ["platform 7", "platform 8", "paused 2"]):
                jobs = storage.queue.claim_due(worker_id="w", limit=limit, platforms=platforms)
                assert len(jobs) == limit
        assert storage.queue.wait(0) is True
        assert storage.queue.next_due_at() == NOW - 400 * DAY
    refuse([entry for entry in seen if entry.scans])
    refuse([entry for entry in seen if entry.work > watch.most_work])
    with watch.watching() as seen:
        assert storage.queue.wait(0, platforms=["paused 0"]) is False
    refuse([entry for entry in seen if entry.scans])


@pytest.mark.parametrize("limit", [1, 100])
def test_counting_ends_at_its_limit(place: tuple[Storage, Watch], limit: int) -> None:
    """Of held jobs, which are few, and of the newest dead letters all are read."""
    storage, watch = place
    edges = [NOW + n * DAY for n in range(-15, 16)]
    with watch.watching() as seen:
        depths = storage.queue.depths(limit=limit)
        counts = storage.queue.timeline(edges, limit=limit)
    assert sum(depth.count for depth in depths) == 5 * limit
    assert {count.start for count in counts} >= {*edges[:-1]}
    refuse([entry for entry in seen if entry.scans])
    of_depths, *of_timeline = seen
    held = 2 * ROWS // 100
    dead = 5 * ROWS // 100
    refuse([of_depths] if of_depths.work > watch.most_work_of_a_row * (2 * held + 10 * limit) else [])
    work = sum(entry.work for entry in of_timeline)
    refuse(of_timeline if work > watch.most_work_of_a_row * (dead + 4 * limit * len(edges)) else [])


def test_other_statements_use_an_index(place: tuple[Storage, Watch]) -> None:
    storage, watch = place
    with watch.watching() as seen:
        look_around(storage)
    refuse([entry for entry in seen if entry.scans])


def test_pruning_uses_an_index_and_stays_in_its_batches(place: tuple[Storage, Watch]) -> None:
    storage, watch = place
    with watch.watching() as seen:
        report = storage.prune(force=True)
    assert min(report.approvals, report.idempotency, report.nonces) > 1000
    assert min(report.posted, report.events, report.sessions) > 1000
    refuse([entry for entry in seen if entry.scans])
    refuse([entry for entry in seen if entry.work > watch.most_work_of_a_row * LARGEST_BATCH])


MANY_POSTED = """
INSERT INTO "{schema}".assistly_queue_jobs (status, platform, content, scheduled_at, due_at, posted_at)
SELECT 'posted', 'p', 'done', at, at, at
FROM (
    SELECT timestamptz '2026-01-01' + n * interval '1 second' AS at FROM generate_series(1, 30000) AS n
) AS times
"""


@pytest.mark.parametrize("limit", [1, 100])
def test_a_claim_follows_its_index_whatever_the_statistics_say(
    database_url: str, new_schema: Callable[[], str], limit: int
) -> None:
    """Few waited when they were made. A plan for few sorts all that are due, at each claim."""
    schema = new_schema()
    table = f'"{schema}".assistly_queue_jobs'
    with (
        Storage(PostgresBackend(database_url, pool_size=1, schema=schema), auto_prune=False) as storage,
        psycopg.connect(database_url, autocommit=True) as connection,
    ):
        storage.migrate()
        connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
        connection.execute(MANY_POSTED.format(schema=schema).encode())
        storage.queue.schedule_many([NewJob("p", "soon", NOW)] * 100, now=NOW)
        connection.execute(f"VACUUM ANALYZE {table}".encode())
        storage.queue.schedule_many([NewJob("p", "soon", NOW)] * 5000, now=NOW)
        with PostgresWatch().watching() as seen:
            jobs = storage.queue.claim_due(worker_id="w", limit=limit, now=NOW)
            assert len(storage.queue.settle(map(Posted, jobs), now=NOW).jobs) == limit
    assert len(seen) == 2
    refuse([entry for entry in seen if entry.scans or entry.work > 10 * limit])


def test_the_lack_of_an_index_is_noticed_on_sqlite(full_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    shutil.copy(full_file, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX idx_queue_due")
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        check_that_a_scan_is_noticed(storage, SqliteWatch())


def test_the_lack_of_an_index_is_noticed_on_postgres(database_url: str, full_schema: str) -> None:
    backend = PostgresBackend(database_url, pool_size=1, schema=full_schema)
    with Storage(backend, auto_prune=False) as storage, psycopg.connect(database_url) as connection:
        connection.execute(f'DROP INDEX "{full_schema}".idx_queue_due_at'.encode())
        connection.execute(f'DROP INDEX "{full_schema}".idx_queue_due'.encode())
        connection.execute(f'DROP INDEX "{full_schema}".idx_queue_conflict'.encode())
        check_that_a_scan_is_noticed(storage.bind(connection), PostgresWatch())
        connection.rollback()


def check_that_a_scan_is_noticed(storage: Storage, watch: Watch) -> None:
    storage.ping()
    with watch.watching() as seen:
        storage.queue.next_due_at()
    (entry,) = seen
    assert entry.scans
    assert entry.work > watch.most_work


WAITING = {"scheduled", "retrying"}
ORIGINAL_INDEXES = {
    "idx_queue_due": ("assistly_queue_jobs", ["scheduled_at", "next_retry_at"], WAITING),
    "idx_queue_conflict": ("assistly_queue_jobs", ["platform", "scheduled_at"], WAITING | {"processing"}),
    "idx_queue_dead_letter": ("assistly_queue_jobs", ["id"], {"dead_letter"}),
    "idx_approvals_created": ("assistly_approvals", ["created_at"], set()),
    "idx_idempotency_saved": ("assistly_idempotency", ["saved_at"], set()),
    "idx_nonces_timestamp": ("assistly_nonces", ["timestamp_ms"], set()),
    "idx_events_type_created": ("assistly_events", ["event_type", "created_at"], set()),
}


# docs/decisions/0015: no database of the original is on SQLite, where these two cost too much as they are.
SQLITE_INDEXES = ORIGINAL_INDEXES | {
    "idx_queue_due": ("assistly_queue_jobs", ["due_at"], WAITING),
    "idx_queue_conflict": (
        "assistly_queue_jobs",
        ["platform", "scheduled_at"],
        {"posted", "dead_letter", "cancelled"},
    ),
}


@pytest.mark.parametrize("name", SQLITE_INDEXES)
def test_the_indexes_of_the_original_have_their_like_on_sqlite(name: str, tmp_path: Path) -> None:
    path = tmp_path / "assistly.db"
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        storage.queue.find_conflict("x", NOW, MINUTE)
    with closing(sqlite3.connect(path)) as connection:
        ((table, text),) = connection.execute(
            "SELECT tbl_name, sql FROM sqlite_master WHERE name = ?", [name]
        )
        columns = [column for _, _, column in connection.execute(f"PRAGMA index_info({name})")]
    assert (table, columns, statuses(text)) == SQLITE_INDEXES[name]


@pytest.mark.parametrize("name", ORIGINAL_INDEXES)
def test_the_indexes_of_the_original_are_there_on_postgres(
    name: str, database_url: str, full_schema: str
) -> None:
    query = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = %s AND indexname = %s"
    with psycopg.connect(database_url) as connection:
        ((table, text),) = connection.execute(query, [full_schema, name]).fetchall()
    match = re.search(r"USING btree \(([^)]*)\)", text)
    assert match is not None
    assert (table, match[1].split(", "), statuses(text)) == ORIGINAL_INDEXES[name]


def statuses(definition: str) -> set[str]:
    """Those that the condition of an index names."""
    _, where, condition = definition.partition("WHERE")
    assert ("status" in condition) == bool(where)
    return set(re.findall(r"'(\w+)'", condition))
