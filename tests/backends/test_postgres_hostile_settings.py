"""Settings of a role, a database or a caller's session that change what SQL means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from assistly.storage import (
    Failed,
    JobStatus,
    NewEvent,
    NewJob,
    Outcome,
    Posted,
    PostgresBackend,
    Released,
    Snoozed,
    Storage,
    StorageUnavailable,
)
from backends.hostile_settings import HOSTILE, OF_TRANSACTIONS

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def role_with(database_url: str, schema: str) -> Iterator[Callable[..., str]]:
    """Makes a role with these settings, which owns the schema; gives the URL to connect as that role."""
    role = sql.Identifier(f"hostile_{schema}")

    def make(settings: dict[str, str], where: str = "") -> str:
        for name, value in settings.items():
            alter = sql.SQL("ALTER ROLE {} " + where + " SET {} = {}")
            connection.execute(alter.format(role, sql.Identifier(name), sql.Literal(value)))
        return make_conninfo(database_url, user=f"hostile_{schema}")

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        create = sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}")
        connection.execute(create.format(sql.Identifier(schema), role))
        yield make
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def use_everything(storage: Storage) -> None:
    """What depends on times, on lists with NULL in them, on numbers and on text."""
    queue = storage.queue
    odd = "back\\slash 'quoted' NULL \u20ac"
    queue.schedule_many(
        [NewJob("x", odd, NOW, max_retries=2, max_lateness=HOUR if n == 1 else None) for n in range(6)]
        + [NewJob("x", odd, NOW, "NULL"), NewJob("x", odd, NOW, "key", metadata={"at": odd})],
        now=NOW,
    )
    many = queue.schedule_many([NewJob("y", "copied", NOW + HOUR)] * 100, now=NOW)
    assert queue.get(many[99].id) == many[99]
    jobs = queue.claim_due(worker_id="w", limit=10, platforms=["x"], now=NOW)
    assert [job.content for job in jobs] == [odd] * 8
    assert {job.lease_until for job in queue.extend(jobs[:2], lease=2 * HOUR, now=NOW)} == {NOW + 2 * HOUR}
    queue.begin_publish(jobs[0], now=NOW)
    outcomes: list[Outcome] = [
        Posted(jobs[0], odd),
        Posted(jobs[1]),
        Failed(jobs[2], odd, retryable=False),
        Failed(jobs[3], "NULL"),
        Snoozed(jobs[4], NOW + HOUR),
        Released(jobs[5]),
    ]
    settled = queue.settle(outcomes, now=NOW).jobs
    assert [(job.status.value, job.remote_id, job.last_error) for job in settled] == [
        ("posted", odd, None),
        ("posted", None, None),
        ("dead_letter", None, odd),
        ("retrying", None, "NULL"),
        ("scheduled", None, None),
        ("scheduled", None, None),
    ]
    assert (settled[2].next_retry_at, settled[4].due_at) == (None, NOW + HOUR)
    assert [queue.get(job.id) for job in settled] == settled
    assert queue.replay_all(now=NOW) == 1
    assert queue.counts()[JobStatus.POSTED] == 2
    assert [job.idempotency_key for job in queue.rescue_expired(now=NOW + 24 * HOUR)] == ["NULL", "key"]
    assert queue.schedule("z", "apart", NOW, min_gap=HOUR, now=NOW).metadata == {}

    assert storage.sessions.put(odd, {"n": 1e-7, "text": odd}, now=NOW).version == 1
    assert storage.sessions.update(odd, lambda data: data | {"step": 2}).data["n"] == 1e-7
    storage.approvals.add("a", {"b": None}, created_at=NOW)
    assert storage.approvals.decide("a", "approved", patch={"c": odd}).payload == {"b": None, "c": odd}
    backend = storage._context.backend
    assert storage.idempotency.run_once("k", lambda: odd, fingerprint="NULL") == odd
    storage.idempotency.put_many([("NULL", 1), ("other", None)])
    record = storage.idempotency.get("NULL")
    assert record is not None
    assert (record.value, record.fingerprint) == (1, None)
    assert storage.nonces.register_many([("NULL", NOW), ("n", NOW)]) == [True, True]
    storage.metrics.increment("NULL")
    storage.metrics.increment("big", 2**53 - 1)
    storage.metrics.observe_latency(0.1)
    assert storage.metrics.read().counters == {"NULL": 1, "big": 2**53 - 1}
    lock = storage.lock.acquire("me")
    assert lock is not None
    assert storage.lock.release(lock)
    first = storage.events.append("NULL", {"at": odd}, created_at=NOW)
    (last,) = storage.events.append_many([NewEvent("other", odd, NOW - HOUR)])
    assert storage.events.read_after(0) == [first, last]
    assert storage.events.read_after(0, event_type="NULL") == [first]
    assert storage.snapshots.put("NULL", [odd]).payload == [odd]
    with storage.transaction() as tx:
        tx.queue.schedule("z", "inside", NOW + 3 * HOUR, min_gap=HOUR, now=NOW)
    assert storage.prune(force=True).ran
    assert backend.now().tzinfo is UTC


@pytest.mark.parametrize(("fast_path", "where"), [(True, ""), (False, "IN DATABASE postgres")])
def test_settings_of_the_role_change_nothing(
    role_with: Callable[..., str], schema: str, fast_path: bool, where: str
) -> None:
    url = role_with(HOSTILE | OF_TRANSACTIONS, where)
    backend = PostgresBackend(url, pool_size=2, schema=schema, fast_path=fast_path)
    with Storage(backend, clock=lambda: NOW, auto_prune=False) as storage:
        use_everything(storage)


def test_nor_do_they_behind_a_pooler(
    role_with: Callable[..., str], schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 0))
    backend = PostgresBackend(role_with(HOSTILE), pool_size=2, schema=schema)
    with Storage(backend, clock=lambda: NOW, auto_prune=False) as storage:
        use_everything(storage)


def test_nor_those_of_a_connection_that_is_bound(role_with: Callable[..., str], schema: str) -> None:
    url = role_with(HOSTILE)
    with (
        Storage(PostgresBackend(url, pool_size=1, schema=schema), auto_prune=False) as storage,
        psycopg.connect(url, client_encoding="UTF8") as connection,
    ):
        use_everything(storage.bind(connection))


def test_a_server_that_is_read_only_by_its_configuration_stays_so(
    role_with: Callable[..., str], schema: str
) -> None:
    """As a database whose disk is full is made by those who host it."""
    url = make_conninfo(role_with({}), options="-c default_transaction_read_only=on")
    backend = PostgresBackend(url, pool_size=1, schema=schema)
    with Storage(backend, auto_prune=False) as storage, pytest.raises(StorageUnavailable, match="no writes"):
        storage.nonces.register("n")
