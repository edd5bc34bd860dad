"""Roles, bound connections, transactions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from assistly.storage.errors import (
    ConfigurationError,
    InvalidValue,
    StorageClosed,
    StorageUnavailable,
)
from assistly.storage.records import JobStatus, NewEvent, NewJob
from assistly.storage.storage import Storage

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


def test_a_role_that_may_only_read(
    role: str, postgres: Storage, open_postgres: Callable[..., Storage], database_url: str
) -> None:
    postgres.events.append_many([NewEvent("a", 1), NewEvent("b", 2)])
    with pytest.raises(ZeroDivisionError), postgres.transaction() as tx:
        tx.events.append("c", 3)
        raise ZeroDivisionError
    postgres.events.append("d", 4)
    reader = open_postgres(make_conninfo(database_url, user=role))
    assert reader.migrate() == []
    assert [event.event_type for event in reader.events.read_after(0)] == ["a", "b", "d"]
    assert reader.queue.counts()[JobStatus.POSTED] == 0
    with pytest.raises(ConfigurationError, match="assistly_nonces"):
        reader.nonces.register("n")


def test_a_role_that_may_not_create(
    role: str, open_postgres: Callable[..., Storage], database_url: str, schema: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"'.encode()
        )
        connection.execute(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA "{schema}" TO "{role}"'.encode())
    writer = open_postgres(make_conninfo(database_url, user=role))
    assert writer.queue.schedule("x", "hello").id == 1
    assert writer.events.append("a", 1).id == 1


def test_a_role_that_may_not_create_where_something_is_pending(
    role: str, open_postgres: Callable[..., Storage], database_url: str, schema: str
) -> None:
    stranger = open_postgres(make_conninfo(database_url, user=role), schema=f"{schema}_other")
    with pytest.raises(ConfigurationError, match="privilege"):
        stranger.ping()


def test_a_server_that_takes_no_writes(open_postgres: Callable[..., Storage], database_url: str) -> None:
    open_postgres().ping()
    storage = open_postgres(make_conninfo(database_url, options="-c default_transaction_read_only=on"))
    assert storage.sessions.get("u") is None
    for write in (lambda: storage.nonces.register("n"), lambda: storage.sessions.update("u", lambda _: 1)):
        with pytest.raises(StorageUnavailable, match="no writes"):
            write()


def test_a_table_that_is_changed_while_it_is_in_use(
    postgres: Storage, schema: str, database_url: str
) -> None:
    """Statements that were prepared before cannot run any more, in any session."""
    postgres.sessions.put("u", 1)

    def change(column_type: str) -> None:
        for _ in range(5):
            assert postgres.sessions.get("u") is not None
        with psycopg.connect(database_url, autocommit=True) as admin:
            column = f'"{schema}".assistly_sessions ALTER COLUMN version'
            admin.execute(f"ALTER TABLE {column} TYPE {column_type}".encode())

    change("numeric")
    assert postgres.sessions.get("u") is not None
    change("bigint")
    with pytest.raises(StorageUnavailable, match="changed"), postgres.transaction() as tx:
        tx.sessions.get("u")
    with postgres.transaction() as tx:
        assert tx.sessions.get("u") is not None


def test_bound_work_is_the_callers_to_commit(postgres: Storage, database_url: str) -> None:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        bound = postgres.bind(connection)
        bound.nonces.register("kept")
        bound.queue.schedule_many([NewJob("x", str(number)) for number in range(5)])
        assert not postgres.nonces.seen("kept")
        connection.commit()
        assert postgres.nonces.seen("kept")
        bound.sessions.update("u", lambda _: 1, default=0)
        connection.rollback()
    assert postgres.sessions.get("u") is None
    assert postgres.queue.counts()[JobStatus.SCHEDULED] == 5


def test_bound_autocommit(postgres: Storage, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        bound = postgres.bind(connection)
        bound.sessions.update("u", lambda data: data + 1, default=0)
        assert postgres.sessions.get("u") is not None
        with pytest.raises(ZeroDivisionError), bound.transaction() as tx:
            tx.nonces.register("n")
            raise ZeroDivisionError
        with connection.transaction(force_rollback=True):
            bound.queue.schedule_many([NewJob("x", "1"), NewJob("x", "2")])
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert not postgres.nonces.seen("n")
    assert postgres.queue.list() == []


def test_an_error_in_bound_work_leaves_the_transaction_usable(postgres: Storage, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        bound = postgres.bind(connection)
        bound.nonces.register("n")
        with pytest.raises(ZeroDivisionError):
            bound.sessions.update("u", lambda _: 1 // 0, default=0)
        assert bound.sessions.get("u") is None
    assert postgres.nonces.seen("n")


def test_bound_connections_of_any_configuration(postgres: Storage, database_url: str) -> None:
    options = "-c timezone=Pacific/Kiritimati -c datestyle=SQL,DMY -c search_path="
    with psycopg.connect(database_url, options=options, cursor_factory=psycopg.ClientCursor) as connection:
        set_json_loads(lambda _: "mine", connection)
        bound = postgres.bind(connection)
        job = bound.queue.schedule("x", "late", LAST, metadata={"a": [1.0, None]})
        assert (job.scheduled_at, job.metadata) == (LAST, {"a": [1.0, None]})
        assert job.scheduled_at.tzinfo is UTC
        assert bound.events.append("a", {"b": 1}).payload == {"b": 1}


def test_what_cannot_be_bound(postgres: Storage, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        pass
    with psycopg.connect(database_url, client_encoding="LATIN1") as latin:
        for unfit in (None, "postgresql://", connection, connection.cursor, latin):
            with pytest.raises(InvalidValue):
                postgres.bind(unfit)  # type: ignore[arg-type]


def test_min_gap_needs_read_committed(postgres: Storage, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        bound = postgres.bind(connection)
        assert bound.queue.schedule("x", "1", NOW, min_gap=timedelta(hours=1), now=NOW)
        connection.commit()
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(InvalidValue, match="READ COMMITTED"):
            bound.queue.schedule("x", "2", NOW, min_gap=timedelta(hours=1), now=NOW)


def test_a_failed_statement_spoils_its_transaction_and_says_so(postgres: Storage) -> None:
    postgres.ping()

    def fail(storage: Storage) -> None:
        database = storage._context.backend._store._database  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="division"):
            database.read(lambda executor: executor.row("SELECT 1 / 0"))

    with pytest.raises(StorageUnavailable, match="nothing"), postgres.transaction() as tx:
        tx.nonces.register("n")
        fail(tx)
    assert not postgres.nonces.seen("n")
    with postgres.transaction() as tx:
        tx.nonces.register("kept")
        with pytest.raises(StorageUnavailable), tx.transaction() as nested:
            nested.nonces.register("undone")
            fail(nested)
    assert (postgres.nonces.seen("kept"), postgres.nonces.seen("undone")) == (True, False)


def test_a_connection_in_pipeline_mode_cannot_be_bound(postgres: Storage, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        with connection.pipeline(), pytest.raises(InvalidValue, match="pipeline"):
            postgres.bind(connection)
        bound = postgres.bind(connection)
        with connection.pipeline(), pytest.raises(InvalidValue, match="pipeline"):
            bound.nonces.register("n")
        assert bound.nonces.register("n")


def test_a_transaction_outlives_neither_its_storage_nor_its_fork(postgres: Storage) -> None:
    backend = postgres._context.backend
    with pytest.raises(StorageClosed), backend.transaction() as tx:
        tx.nonces.register("n", 1)
        backend.close()
        with pytest.raises(StorageClosed):
            tx.nonces.seen("n")
