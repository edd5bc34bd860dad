"""A call that loses a race is made again. Each race is lost on purpose, so nothing is left to chance."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage import MemoryBackend, PostgresBackend, SqliteBackend, Storage, TransactionAborted
from assistly.storage.records import ClaimState
from assistly.storage.testing.faults import Action, Fault, FaultyBackend, fail_with
from assistly.storage.testing.fixtures import on_a_thread

HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
PATIENCE = 30.0

# How often `Context.atomically` runs a transaction.
ATTEMPTS = 5

# How often Postgres is asked again after a deadlock outside a transaction.
RETRIES = 8


def meanwhile(happens: Callable[[], object]) -> Action:
    """Another caller does this right then."""
    return lambda _: happens()


@pytest.fixture
def memory() -> Iterator[FaultyBackend]:
    with closing(FaultyBackend(MemoryBackend())) as faulty:
        faulty.ping()
        yield faulty


_ATOMIC: dict[str, Callable[[Storage], object]] = {
    "update": lambda s: s.sessions.update("user", lambda n: n + 1, default=0),
    "decide": lambda s: s.approvals.decide("id", "approved"),
    "reschedule": lambda s: s.queue.reschedule(1, s.queue.list()[0].due_at + HOUR),
}


@pytest.mark.parametrize("call", _ATOMIC)
def test_a_transaction_that_is_undone_runs_again(memory: FaultyBackend, call: str) -> None:
    storage = Storage(memory, auto_prune=False)
    storage.approvals.add("id", {})
    storage.queue.schedule("x", "a")

    def lose(times: int) -> None:
        aborted = fail_with(TransactionAborted)
        memory.inject(*(Fault(aborted, at=number + 1, method="commit") for number in range(times)))

    lose(ATTEMPTS)
    with pytest.raises(TransactionAborted):
        _ATOMIC[call](storage)
    lose(ATTEMPTS - 1)
    _ATOMIC[call](storage)
    assert memory.injected == ["commit"] * (ATTEMPTS - 1)


def test_a_key_that_is_freed_between_insert_and_look_is_taken(memory: FaultyBackend) -> None:
    storage = Storage(memory, auto_prune=False)
    first = storage.queue.schedule("x", "a", idempotency_key="key")
    remove = meanwhile(lambda: storage.queue.remove(first.id))
    memory.inject(Fault(remove, when="after", method="jobs.insert"))
    job = storage.queue.schedule("x", "b", idempotency_key="key")
    assert storage.queue.list() == [job]
    assert (memory.injected, job.content) == (["jobs.insert"], "b")


def test_a_session_that_another_creates_is_updated(database_url: str, schema: str) -> None:
    with closing(FaultyBackend(PostgresBackend(database_url, schema=schema))) as faulty:
        storage = Storage(faulty, auto_prune=False)
        other = Storage(PostgresBackend(database_url, schema=schema), auto_prune=False)
        with closing(other):
            create = meanwhile(lambda: other.sessions.put("user", 10))
            faulty.inject(Fault(create, when="after", method="sessions.get"))
            assert storage.sessions.update("user", lambda n: n + 1, default=0).data == 11


@pytest.fixture(params=["sqlite", "postgres"])
def open_another(request: pytest.FixtureRequest, path: Path) -> Iterator[Callable[[], Storage]]:
    """Storages on one database, each with its own connections."""
    opened: list[Storage] = []

    def open_one() -> Storage:
        backend: Any
        if request.param == "sqlite":
            backend = SqliteBackend(path)
        else:
            url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("schema")
            backend = PostgresBackend(url, schema=schema)
        opened.append(Storage(backend, auto_prune=False))
        return opened[-1]

    yield open_one
    for storage in opened:
        storage.close()


Act = Callable[[], object]


def during_the_select(monkeypatch: pytest.MonkeyPatch, storage: Storage, *, before: Act, after: Act) -> None:
    """What others do right before and right after the first SELECT of a storage."""
    database: Any = storage._context.backend._database  # type: ignore[attr-defined]
    select = database.select

    def hooked(statement: str, params: Any) -> Any:
        monkeypatch.setattr(database, "select", select)
        before()
        rows = select(statement, params)
        after()
        return rows

    monkeypatch.setattr(database, "select", hooked)


def nothing() -> None:
    """Others do nothing."""


def test_a_key_that_is_freed_between_claim_and_look(
    open_another: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, other = open_another(), open_another()
    claim = other.idempotency.claim("key")
    during_the_select(monkeypatch, storage, before=lambda: other.idempotency.abandon(claim), after=nothing)
    assert storage.idempotency.claim("key").state is ClaimState.ACQUIRED


def test_a_key_that_another_takes_over_first(
    open_another: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, other = open_another(), open_another()
    claim = other.idempotency.claim("key", lease=TICK)
    now = other._context.now(None) + HOUR

    def take_over() -> None:
        assert other.idempotency.claim("key", now=now).state is ClaimState.ACQUIRED

    during_the_select(monkeypatch, storage, before=nothing, after=take_over)
    found = storage.idempotency.claim("key", now=now)
    assert found.state is ClaimState.IN_PROGRESS
    assert found.token != claim.token
    assert found.lease_until is not None
    assert found.lease_until > now


def test_a_lock_that_is_freed_between_take_and_look(
    open_another: Callable[[], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, other = open_another(), open_another()
    first = other.lock.acquire("other", ttl=HOUR)
    assert first is not None
    during_the_select(monkeypatch, storage, before=lambda: other.lock.release(first), after=nothing)
    lock = storage.lock.acquire("me", ttl=HOUR)
    assert lock is not None
    assert lock.fence > first.fence


@pytest.mark.parametrize(
    "error",
    [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure],
    ids=["deadlock", "serial"],
)
@pytest.mark.parametrize("run", ["read", "autocommit", "in_transaction"])
def test_a_call_is_repeated_after_a_conflict(
    postgres: Storage, monkeypatch: pytest.MonkeyPatch, error: type[psycopg.Error], run: str
) -> None:
    postgres.ping()
    engine: Any = postgres._context.backend._database  # type: ignore[attr-defined]
    monkeypatch.setattr("assistly.storage.engines.postgres.database.time.sleep", lambda _: None)
    losses = RETRIES

    def work(executor: Any) -> Any:
        nonlocal losses
        losses -= 1
        if losses >= 0:
            raise error("on purpose")
        return executor.row("SELECT 1")

    assert getattr(engine, run)(work) == (1,)
    losses = RETRIES + 1
    with pytest.raises(TransactionAborted, match="on purpose"):
        getattr(engine, run)(work)


def test_a_deadlock_of_two_transactions_ends_one(
    open_postgres: Callable[..., Storage], database_url: str
) -> None:
    storage = open_postgres(make_conninfo(database_url, options="-c deadlock_timeout=10ms"))
    for user in ("a", "b"):
        storage.sessions.put(user, 0)
    both = threading.Barrier(2)

    def change(first: str, second: str) -> None:
        with storage.transaction() as tx:
            tx.sessions.put(first, 1)
            both.wait(PATIENCE)
            tx.sessions.put(second, 1)

    calls = [on_a_thread(lambda: change("a", "b")), on_a_thread(lambda: change("b", "a"))]
    (error,) = [error for call in calls if (error := call.exception(PATIENCE)) is not None]
    assert isinstance(error, TransactionAborted)
    assert {session.version for session in storage.sessions.list()} == {2}


def test_a_bound_connection_that_cannot_be_serialized(postgres: Storage, database_url: str) -> None:
    postgres.sessions.put("user", 0)
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        bound = postgres.bind(connection)
        assert bound.sessions.get("user") is not None
        postgres.sessions.put("user", 1)
        with pytest.raises(TransactionAborted):
            bound.sessions.put("user", 2)
        connection.rollback()
        assert bound.sessions.put("user", 3).version == 3
