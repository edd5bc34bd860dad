"""The storage inside a transaction of the caller's own sqlite3 connection."""

from __future__ import annotations

import sqlite3 as stdlib_sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from assistly.storage import (
    InvalidValue,
    NewJob,
    Storage,
    StorageClosed,
    StorageUnavailable,
    TransactionAborted,
)
from assistly.storage.engines.sql.binding import cannot_be_bound
from assistly.storage.engines.sqlite import SqliteBackend, bound
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.frameworks import CallersConnection

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def storage(path: Path) -> Iterator[Storage]:
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        storage.ping()
        yield storage


def connect(path: Path, **options: Any) -> Any:
    return closing(sqlite3.connect(str(path), **options))


@contextmanager
def undone(owner: Any) -> Iterator[Any]:
    """A transaction that ends with an exception."""
    with suppress(KeyError), owner.transaction() as transaction:
        yield transaction
        raise KeyError


def dict_row(cursor: Any, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def test_what_is_no_open_connection(storage: Storage, path: Path) -> None:
    closed = sqlite3.connect(str(path))
    closed.close()
    for bad in (None, "file.db", object(), closed):
        with pytest.raises(InvalidValue, match="connection must be"):
            storage.bind(bad)  # type: ignore[arg-type]


def module(name: str, *classes: type) -> None:
    """As if the classes were those of a library that need not be installed."""
    for each in classes:
        each.__module__ = name


def test_the_wrapper_of_another_library(storage: Storage, path: Path) -> None:
    """The message names its class, and the attribute that can be bound."""

    class Wrapper:
        """Of whatever library; its own `connection` is the proxy of a pool."""

        def __init__(self, raw: Any) -> None:
            self.connection = SimpleNamespace(driver_connection=raw)

    class Database:
        """Of sqlite-utils."""

        def __init__(self, raw: Any) -> None:
            self.conn = raw

    class Fairy:
        """Of SQLAlchemy's pool."""

        def __init__(self, raw: Any) -> None:
            self.dbapi_connection = raw

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    module("sqlalchemy.pool", Fairy)
    module("wrapping.core", Wrapper)
    module("sqlite_utils.db", Database)
    with connect(path) as raw:
        for wrapper, words in (
            (Wrapper(raw), "got wrapping.core.Wrapper: pass its .connection.driver_connection"),
            (Fairy(raw), "pass its .dbapi_connection"),
            (Database(raw), "got sqlite_utils.db.Database: pass its .conn"),
            (raw.cursor(), "got sqlite3.Cursor: pass its .connection"),
        ):
            with pytest.raises(InvalidValue) as caught:
                storage.bind(wrapper)  # type: ignore[arg-type]
            assert str(caught.value).startswith("connection must be a sqlite3.Connection, got ")
            assert words in str(caught.value)


def test_what_cannot_be_bound_at_all(storage: Storage) -> None:
    class Connection:
        """Of asyncpg."""

    class ConnectionPool: ...

    module("asyncpg.connection", Connection)
    for wrong, words in (
        (Connection(), "got asyncpg.connection.Connection: open one with sqlite3.connect"),
        (ConnectionPool(), "pass a connection that it lent"),
        (sqlite3.Connection, "open one with sqlite3.connect"),
        ("file.db", "got 'file.db': open one with sqlite3.connect"),
    ):
        with pytest.raises(InvalidValue) as caught:
            storage.bind(wrong)  # type: ignore[arg-type]
        assert words in str(caught.value)


def test_what_the_postgres_engine_says(path: Path) -> None:
    with connect(path) as raw:
        error = str(cannot_be_bound(CallersConnection(raw, "sqlite3.Connection"), psycopg.Connection))
    assert error == (
        "connection must be a psycopg.Connection, got sqlite3.Connection: open one with psycopg.connect"
    )


@pytest.mark.parametrize("other", ["another.db", ":memory:", ""])
def test_a_connection_to_another_file(storage: Storage, path: Path, other: str) -> None:
    with closing(sqlite3.connect(path.with_name(other) if other.endswith(".db") else other)) as raw:
        if other == "another.db":
            with Storage(SqliteBackend(path.with_name(other)), auto_prune=False) as own:
                own.ping()
        with pytest.raises(InvalidValue, match="bind a connection to the same file"):
            storage.bind(raw)


def test_another_path_to_the_same_file(storage: Storage, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    monkeypatch.chdir(path.parent)
    for same in (link, Path(path.name)):
        with connect(same) as raw:
            raw.execute("ATTACH ':memory:' AS other")
            storage.bind(raw).nonces.register(f"over {same.name}")
            raw.commit()
        assert storage.nonces.seen(f"over {same.name}")


def test_the_first_use_is_a_bound_one(path: Path) -> None:
    with connect(path) as raw, Storage(SqliteBackend(path), auto_prune=False) as storage:
        storage.bind(raw).nonces.register("first")
        raw.commit()
        assert storage.nonces.seen("first")


def test_a_connection_of_another_thread(storage: Storage, path: Path) -> None:
    with ThreadPoolExecutor(1) as thread:
        raw = thread.submit(sqlite3.connect, str(path)).result()
        with pytest.raises(InvalidValue, match="thread"):
            storage.bind(raw)
        thread.submit(raw.close).result()


@pytest.mark.parametrize("level", ["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_the_drivers_own_transactions_are_the_callers_to_end(
    storage: Storage, path: Path, level: Any
) -> None:
    with connect(path, isolation_level=level) as raw:
        bound = storage.bind(raw)
        assert bound.nonces.register("undone")
        assert raw.in_transaction
        raw.rollback()
        bound.queue.schedule_many([])
        bound.queue.schedule("x", "Hello", NOW, min_gap=timedelta(minutes=1))
        bound.metrics.increment("calls")
        assert raw.in_transaction
        assert storage.queue.get(1) is None
        raw.commit()
    assert not storage.nonces.seen("undone")
    assert storage.queue.get(1) is not None
    assert storage.metrics.read().counters == {"calls": 1}


@pytest.mark.parametrize("level", ["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_a_transaction_that_begins_before_a_write_takes_the_lock(
    storage: Storage, path: Path, level: Any
) -> None:
    """A deferred one that reads first fails at its write, however long it could wait."""
    with connect(path, isolation_level=level) as raw:
        statements: list[str] = []
        raw.set_trace_callback(statements.append)
        bound = storage.bind(raw)
        bound.nonces.seen("n")
        assert not raw.in_transaction
        bound.queue.schedule("x", "Hello", NOW, min_gap=timedelta(minutes=1))
        begun = [statement for statement in statements if statement.startswith("BEGIN")]
        assert begun == ["BEGIN EXCLUSIVE" if level == "EXCLUSIVE" else "BEGIN IMMEDIATE"]
        raw.commit()


def test_an_open_transaction_is_joined_and_an_inner_one_is_a_savepoint(storage: Storage, path: Path) -> None:
    with connect(path, isolation_level=None) as raw:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("CREATE TABLE mine (a)")
        bound = storage.bind(raw)
        bound.nonces.register("bound")
        with undone(bound) as inner:
            inner.nonces.register("inner")
        raw.execute("INSERT INTO mine VALUES (1)")
        assert raw.in_transaction
        raw.execute("COMMIT")
        assert raw.execute("SELECT a FROM mine").fetchall() == [(1,)]
    assert storage.nonces.seen("bound")
    assert not storage.nonces.seen("inner")


# `autocommit` came with Python 3.12.
HAS_AUTOCOMMIT = hasattr(sqlite3, "LEGACY_TRANSACTION_CONTROL")
AUTOCOMMIT = [{"isolation_level": None}, *([{"autocommit": True}] if HAS_AUTOCOMMIT else [])]


@pytest.mark.parametrize("options", AUTOCOMMIT, ids=str)
def test_in_autocommit_a_transaction_begins_with_begin(
    storage: Storage, path: Path, options: dict[str, Any]
) -> None:
    with connect(path, **options) as raw:
        bound = storage.bind(raw)
        raw.execute("BEGIN")
        bound.nonces.register("undone")
        raw.execute("ROLLBACK")
        raw.execute("BEGIN")
        bound.nonces.register("n")
        raw.execute("COMMIT")
    assert (storage.nonces.seen("undone"), storage.nonces.seen("n")) == (False, True)


@pytest.mark.parametrize("options", AUTOCOMMIT, ids=str)
def test_without_a_transaction_each_call_is_one(
    storage: Storage, path: Path, options: dict[str, Any]
) -> None:
    with connect(path, **options) as raw:
        bound = storage.bind(raw)
        bound.nonces.register("n")
        bound.metrics.increment("calls")
        with undone(bound) as transaction:
            transaction.nonces.register("undone")
        assert not raw.in_transaction
    assert storage.nonces.seen("n")
    assert not storage.nonces.seen("undone")
    assert storage.metrics.read().counters == {"calls": 1}


@pytest.mark.skipif(
    not hasattr(stdlib_sqlite3, "LEGACY_TRANSACTION_CONTROL"),
    reason="the sqlite3 of Python 3.11 cannot open such a connection: `autocommit` came with 3.12",
)
def test_a_connection_that_is_always_in_a_transaction(storage: Storage, path: Path) -> None:
    with closing(stdlib_sqlite3.connect(path, autocommit=False)) as raw:  # type: ignore[call-overload, unused-ignore]
        bound = storage.bind(raw)
        bound.nonces.register("undone")
        raw.rollback()
        bound.metrics.increment("calls")
        raw.commit()
    assert not storage.nonces.seen("undone")
    assert storage.metrics.read().counters == {"calls": 1}


def test_however_the_connection_presents_rows(storage: Storage, path: Path) -> None:
    storage.sessions.put("u", {"a": "é"})
    with connect(path) as raw:
        raw.row_factory = dict_row
        raw.text_factory = bytes
        session = storage.bind(raw).sessions.get("u")
        assert session is not None
        assert (session.user_id, session.data) == ("u", {"a": "é"})
        assert raw.text_factory is bytes
        assert raw.execute("SELECT user_id FROM assistly_sessions").fetchall() == [{"user_id": b"u"}]


def test_a_connection_of_another_copy_of_sqlite(
    storage: Storage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where pysqlite3 is installed: the two would drop each other's locks on the file."""

    class OtherConnection:
        """What the engine would open with it."""

    monkeypatch.setattr(bound, "sqlite3", SimpleNamespace(Connection=OtherConnection, __name__="pysqlite3"))
    with (
        closing(stdlib_sqlite3.connect(path)) as raw,
        pytest.raises(InvalidValue, match=r"another copy|two copies"),
    ):
        storage.bind(raw)


def test_a_transaction_that_lost_its_snapshot_must_be_run_again(storage: Storage, path: Path) -> None:
    calls: list[Callable[[Storage], object]] = [
        lambda bound: bound.nonces.register("n"),
        lambda bound: bound.queue.schedule("x", "Hello", NOW, min_gap=timedelta(minutes=1)),
        lambda bound: bound.sessions.update("u", lambda _: 1),
        lambda bound: bound.queue.schedule_many([NewJob("x", "Hello", NOW)] * 2),
        run_in_a_savepoint,
    ]
    with connect(path, isolation_level=None) as raw:
        bound = storage.bind(raw)
        raw.execute("BEGIN")
        assert not bound.nonces.seen("n")
        storage.nonces.register("other")
        for call in calls * 2:
            with pytest.raises(TransactionAborted, match=r"roll back, and run it again.*BEGIN IMMEDIATE"):
                call(bound)
            assert raw.in_transaction
        raw.rollback()
        raw.execute("BEGIN")
        assert not bound.nonces.seen("n")
        for call in calls:
            call(bound)
        raw.commit()
    assert len(storage.queue.list()) == 3
    assert storage.nonces.seen("in a savepoint")


def test_a_transaction_that_has_read_does_not_wait_for_another_writer(storage: Storage, path: Path) -> None:
    """SQLite refuses it at once, whatever the timeout: the snapshot is lost once the other one commits."""
    with connect(path, isolation_level=None) as raw, connect(path, isolation_level=None) as other:
        bound = storage.bind(raw)
        raw.execute("BEGIN")
        assert not bound.nonces.seen("n")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransactionAborted, match="roll back, and run the transaction again"):
            bound.nonces.register("n")
        with pytest.raises(TransactionAborted, match="roll back, and run the transaction again"):
            run_in_a_savepoint(bound)
        other.rollback()
        raw.rollback()


def run_in_a_savepoint(bound: Storage) -> None:
    with bound.transaction() as tx:
        tx.nonces.register("in a savepoint")


def test_a_call_that_waits_for_the_programs_own_transaction_says_what_to_call(path: Path) -> None:
    impatient = SqliteBackend(path, busy_timeout=timedelta(milliseconds=1))
    with Storage(impatient, auto_prune=False) as storage, connect(path) as raw:
        storage.bind(raw).nonces.register("bound")
        with pytest.raises(
            StorageUnavailable, match=r"own transaction, call the storage that `bind` returned"
        ):
            storage.nonces.register("outside")
        raw.commit()
        assert storage.nonces.seen("bound")


def test_after_the_connection_is_closed(storage: Storage, path: Path) -> None:
    with connect(path) as raw:
        bound = storage.bind(raw)
    for call in (bound.nonces.seen, bound.nonces.register, bound.metrics.increment):
        with pytest.raises(StorageClosed):
            call("n")


def test_closing_the_bound_storage_leaves_the_connection_open(storage: Storage, path: Path) -> None:
    with connect(path) as raw:
        with storage.bind(raw) as bound:
            bound.nonces.register("n")
        with pytest.raises(StorageClosed):
            bound.nonces.seen("n")
        raw.commit()
    assert storage.nonces.seen("n")
