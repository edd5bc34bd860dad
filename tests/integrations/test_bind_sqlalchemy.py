"""The storage in the transactions of SQLAlchemy: an order and its job are stored together or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from assistly.storage import (
    AsyncStorage,
    InvalidValue,
    MemoryBackend,
    NewJob,
    PostgresBackend,
    ScheduleConflict,
    SqliteBackend,
    Storage,
    StorageClosed,
    StorageUnavailable,
    TransactionAborted,
)
from assistly.storage.engines.sql.binding import cannot_be_bound
from assistly.storage.frameworks import CallersConnection

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


class Shop:
    """A storage, and an engine of SQLAlchemy on the same database."""

    def __init__(self, storage: Storage, url: str, schema: str | None) -> None:
        self.storage = storage
        self.url = url
        self.schema = schema
        self.engine = self.connect()
        Base.metadata.create_all(self.engine)

    def connect(self, **options: Any) -> sa.Engine:
        if self.schema is not None:
            options["execution_options"] = {"schema_translate_map": {None: self.schema}}
        return sa.create_engine(self.url, **options)

    @property
    def stored(self) -> tuple[list[str], list[str]]:
        """The items of the orders, and the contents of the jobs."""
        with Session(self.engine) as session:
            items = list(session.scalars(sa.select(Order.item).order_by(Order.item)))
        return items, sorted(job.content for job in self.storage.queue.list())


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, path: Path) -> Iterator[Shop]:
    if request.param == "sqlite":
        with Storage(SqliteBackend(path), auto_prune=False) as storage:
            storage.ping()
            shop = Shop(storage, f"sqlite:///{path}", None)
            yield shop
            shop.engine.dispose()
    else:
        storage = request.getfixturevalue("postgres")
        storage.ping()
        url = request.getfixturevalue("database_url").replace("postgresql://", "postgresql+psycopg://")
        shop = Shop(storage, url, request.getfixturevalue("schema"))
        yield shop
        shop.engine.dispose()


def order(session: Session, storage: Storage, item: str) -> None:
    session.add(Order(item=item))
    storage.queue.schedule("x", item, NOW)


def test_a_session_commits_both(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        order(session, shop.storage.bind(session), "bread")
        assert shop.storage.queue.list() == []
    assert shop.stored == (["bread"], ["bread"])


def test_another_database(shop: Shop, path: Path, request: pytest.FixtureRequest) -> None:
    backend: Any = SqliteBackend(path.with_name("other.db"))
    if shop.schema is not None:
        backend = PostgresBackend(request.getfixturevalue("own_database"))
    with Storage(backend, auto_prune=False) as other, Session(shop.engine) as session, session.begin():
        with pytest.raises(InvalidValue, match="but this storage is in "):
            other.bind(session)
        order(session, shop.storage.bind(session), "bread")
    assert shop.stored == (["bread"], ["bread"])


def test_a_session_rolls_both_back(shop: Shop) -> None:
    with Session(shop.engine) as session:
        order(session, shop.storage.bind(session), "bread")
        session.flush()
        session.rollback()
        order(session, shop.storage.bind(session), "cake")
    with pytest.raises(KeyError), Session(shop.engine) as session, session.begin():
        session.add(Order(item="scone"))
        session.flush()
        shop.storage.bind(session).queue.schedule("x", "scone", NOW)
        raise KeyError
    assert shop.stored == ([], [])


@pytest.mark.parametrize("makes_it", [scoped_session, lambda maker: maker()])
def test_whatever_the_session_comes_from(shop: Shop, makes_it: Callable[[Any], Any]) -> None:
    session = makes_it(sessionmaker(shop.engine))
    order(session, shop.storage.bind(session), "bread")
    session.commit()
    order(session, shop.storage.bind(session), "cake")
    session.close()
    assert shop.stored == (["bread"], ["bread"])


def test_a_connection(shop: Shop) -> None:
    insert = sa.insert(Order)
    with shop.engine.begin() as connection:
        connection.execute(insert, {"item": "bread"})
        shop.storage.bind(connection).queue.schedule("x", "bread", NOW)
    with pytest.raises(KeyError), shop.engine.begin() as connection:
        shop.storage.bind(connection).queue.schedule("x", "cake", NOW)
        connection.execute(insert, {"item": "cake"})
        raise KeyError
    assert shop.stored == (["bread"], ["bread"])


def test_a_connection_that_has_not_begun(shop: Shop) -> None:
    """SQLAlchemy's `commit` does nothing on a connection on which it has not begun itself."""
    with shop.engine.connect() as connection:
        shop.storage.bind(connection).queue.schedule("x", "bread", NOW)
        connection.commit()
        shop.storage.bind(connection).queue.schedule("x", "cake", NOW)
        connection.rollback()
        shop.storage.bind(connection).queue.schedule("x", "scone", NOW)
    assert shop.stored == ([], ["bread"])


def test_a_read_sees_what_the_session_wrote(shop: Shop) -> None:
    with Session(shop.engine) as session:
        bound = shop.storage.bind(session)
        order(session, bound, "bread")
        assert [job.content for job in bound.queue.list()] == ["bread"]
        (row,) = session.execute(
            sa.text(f"SELECT content FROM {shop.schema + '.' if shop.schema else ''}assistly_queue_jobs")
        )
        assert row.content == "bread"


def test_a_savepoint_is_undone_alone(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        bound = shop.storage.bind(session)
        order(session, bound, "bread")
        with pytest.raises(KeyError), session.begin_nested():
            order(session, bound, "cake")
            raise KeyError
        with session.begin_nested():
            order(session, shop.storage.bind(session), "scone")
        order(session, bound, "tart")
    assert shop.stored == (["bread", "scone", "tart"],) * 2


def begin_always(engine: sa.Engine) -> None:
    """What SQLAlchemy recommends for savepoints on SQLite."""

    @event.listens_for(engine, "connect")
    def do_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def do_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


@pytest.mark.parametrize("way", ["events", "autocommit=False"])
def test_a_savepoint_first_on_sqlite(path: Path, way: str) -> None:
    """In the ways that SQLAlchemy recommends: without them, leaving the savepoint commits it."""
    if way != "events" and sys.version_info < (3, 12):
        pytest.skip("`autocommit` came with Python 3.12")
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        storage.ping()
        shop = Shop(storage, f"sqlite:///{path}", None)
        engine = shop.engine
        if way == "events":
            begin_always(engine)
        else:
            engine = shop.connect(connect_args={"autocommit": False})
        with Session(engine) as session:
            with session.begin_nested():
                order(session, storage.bind(session), "bread")
            session.rollback()
            with session.begin_nested():
                order(session, storage.bind(session), "cake")
            session.commit()
        engine.dispose()
        assert shop.stored == (["cake"],) * 2
        shop.engine.dispose()


def test_a_bound_connection_keeps_its_lock_timeout(shop: Shop) -> None:
    if shop.schema is None:
        pytest.skip("of Postgres")
    engine = shop.connect(connect_args={"options": "-c lock_timeout=10ms"})
    with Session(shop.engine) as holder, Session(engine) as session:
        shop.storage.bind(holder).sessions.put("u", 1)
        with pytest.raises(StorageUnavailable, match="a lock was not free in time"):
            shop.storage.bind(session).sessions.put("u", 2)
    engine.dispose()


def test_a_session_that_lost_a_race_must_be_run_again(shop: Shop) -> None:
    engine = shop.connect(isolation_level="SERIALIZABLE")
    if shop.schema is None:
        begin_always(engine)
    shop.storage.sessions.put("u", 0)
    with Session(engine) as session:
        bound = shop.storage.bind(session)
        assert bound.sessions.get("u")
        shop.storage.sessions.put("u", 1)
        with pytest.raises(TransactionAborted):
            bound.sessions.put("u", 2)
        session.rollback()
        assert shop.storage.bind(session).sessions.put("u", 3).version == 3
        session.commit()
    engine.dispose()


def test_a_transaction_of_the_bound_storage_is_a_savepoint(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        bound = shop.storage.bind(session)
        order(session, bound, "bread")
        session.flush()
        with pytest.raises(KeyError), bound.transaction() as tx:
            order(session, tx, "cake")
            session.flush()
            raise KeyError
        with bound.transaction() as tx, session.begin_nested():
            order(session, tx, "scone")
    assert shop.stored == (["bread", "scone"],) * 2


def commit(session: Session) -> None:
    session.commit()


def roll_back(session: Session) -> None:
    session.rollback()


def close(session: Session) -> None:
    session.close()


@pytest.mark.parametrize("end", [commit, roll_back, close])
def test_after_the_end_of_the_transaction(shop: Shop, end: Callable[[Session], None]) -> None:
    with Session(shop.engine) as session:
        bound = shop.storage.bind(session)
        end(session)
        for begin in (None, session.connection):
            if begin is not None:
                begin()
            for call in (
                lambda: bound.queue.schedule("x", "late", NOW),
                lambda: bound.queue.schedule_many([NewJob("x", "late", NOW)] * 3),
                lambda: bound.idempotency.put("late", 1),
                bound.queue.list,
                bound.transaction().__enter__,
            ):
                with pytest.raises(StorageClosed, match=r"Session in which .* has ended: bind it again"):
                    call()
        session.commit()
    assert shop.stored == ([], [])


def test_after_the_end_of_the_savepoint(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        session.add(Order(item="bread"))
        session.flush()
        with session.begin_nested():
            bound = shop.storage.bind(session)
            with session.begin_nested():
                bound.queue.schedule("x", "bread", NOW)
            bound.queue.schedule("x", "cake", NOW)
        with pytest.raises(StorageClosed):
            bound.queue.schedule("x", "late", NOW)
    assert shop.stored == (["bread"], ["bread", "cake"])


@pytest.mark.parametrize("fails", [False, True])
def test_a_connection_that_the_pool_has_lent_to_another_session_is_left_alone(
    shop: Shop, fails: bool
) -> None:
    engine = shop.connect(pool_size=1, max_overflow=0)
    with Session(engine) as first, Session(engine) as second:
        bound = shop.storage.bind(first)
        with pytest.raises(KeyError if fails else StorageClosed), bound.transaction() as tx:
            order(first, tx, "bread")
            first.commit()
            second.add(Order(item="cake"))
            second.flush()
            with pytest.raises(StorageClosed):
                tx.queue.schedule("x", "late", NOW)
            if fails:
                raise KeyError
        order(second, shop.storage.bind(second), "scone")
        second.commit()
    engine.dispose()
    assert shop.stored == (["bread", "cake", "scone"], ["bread", "scone"])


def settings(raw: Any) -> dict[str, Any]:
    """All that a later user of the connection could notice."""
    if isinstance(raw, sqlite3.Connection):
        names = ("row_factory", "text_factory", "isolation_level", "in_transaction")
        pragmas = ("busy_timeout", "foreign_keys", "synchronous", "cache_size", "query_only", "temp_store")
        return {name: getattr(raw, name) for name in names} | {
            name: raw.execute(f"PRAGMA {name}").fetchall() for name in pragmas
        }
    attributes = {name: value for name, value in vars(raw).items() if name not in ("_prepared", "lock")}
    rows = raw.execute("SELECT name, setting FROM pg_settings ORDER BY name").fetchall()
    prepared = raw.execute("SELECT name FROM pg_prepared_statements").fetchall()
    raw.rollback()
    return attributes | {"settings": rows, "prepared": prepared}


def test_the_pool_gets_the_connection_back_as_it_was(shop: Shop) -> None:
    engine = shop.connect(pool_size=1, max_overflow=0)

    def look() -> dict[str, Any]:
        with engine.connect() as connection:
            return settings(connection.connection.driver_connection)

    before = look()
    with Session(engine) as session:
        bound = shop.storage.bind(session)
        order(session, bound, "bread")
        bound.queue.claim_due(worker_id="w", now=NOW)
        bound.metrics.increment("calls")
        with bound.transaction() as tx:
            tx.sessions.put("u", {})
        session.commit()
    assert look() == before
    engine.dispose()


@pytest.mark.parametrize("where", ["engine", "connection"])
def test_in_autocommit(shop: Shop, where: str) -> None:
    engine = shop.connect(isolation_level="AUTOCOMMIT") if where == "engine" else shop.engine
    with engine.connect() as connection:
        if where == "connection":
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(InvalidValue, match="AUTOCOMMIT"):
            shop.storage.bind(connection)
    engine.dispose()


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ"])
def test_in_a_stricter_isolation_level(shop: Shop, level: str) -> None:
    if shop.engine.name == "sqlite" and level != "SERIALIZABLE":
        pytest.skip("SQLite has no such level")
    engine = shop.connect(isolation_level=level)
    with Session(engine) as session, session.begin():
        order(session, shop.storage.bind(session), "bread")
    engine.dispose()
    assert shop.stored == (["bread"],) * 2


def test_sessions_side_by_side(shop: Shop) -> None:
    """On SQLite they wait for each other: a transaction that the storage begins takes the write lock."""

    def place(number: int) -> None:
        with Session(shop.engine) as session, session.begin():
            bound = shop.storage.bind(session)
            bound.queue.schedule("x", f"{number:02}", NOW, min_gap=timedelta(0))
            session.add(Order(item=f"{number:02}"))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(place, range(30)))
    items, contents = shop.stored
    assert items == contents == [f"{number:02}" for number in range(30)]


def test_one_slot_for_many_sessions(shop: Shop) -> None:
    def place(number: int) -> bool:
        try:
            with Session(shop.engine) as session, session.begin():
                gap = timedelta(minutes=1)
                shop.storage.bind(session).queue.schedule("x", str(number), NOW, min_gap=gap)
                session.add(Order(item=str(number)))
        except ScheduleConflict:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(place, range(12))) == 1
    items, contents = shop.stored
    assert items == contents
    assert len(items) == 1


def test_an_error_of_the_storage_leaves_the_transaction_open(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        bound = shop.storage.bind(session)
        order(session, bound, "bread")
        with pytest.raises(ScheduleConflict):
            bound.queue.schedule("x", "cake", NOW, min_gap=timedelta(minutes=1))
    assert shop.stored == (["bread"],) * 2


def test_a_session_that_must_be_rolled_back(shop: Shop) -> None:
    with Session(shop.engine) as session:
        session.add(Order(id=1, item="bread"))
        session.flush()
        with pytest.raises(sa.exc.IntegrityError):
            session.add(Order(id=1, item="bread"))
            session.flush()
        with pytest.raises(InvalidValue, match=r"Session that cannot be used: .*rolled back"):
            shop.storage.bind(session)


def test_a_closed_connection(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        pass
    with pytest.raises(InvalidValue, match="Connection that cannot be used: This Connection is closed"):
        shop.storage.bind(connection)


def test_a_database_that_cannot_be_reached(shop: Shop, path: Path) -> None:
    url = f"sqlite:///{path}/nowhere" if shop.schema is None else "postgresql+psycopg://localhost:1/nowhere"
    with (
        Session(sa.create_engine(url)) as session,
        pytest.raises(StorageUnavailable, match="could not begin"),
    ):
        shop.storage.bind(session)


def test_a_pool_that_lends_no_more_connections(shop: Shop) -> None:
    engine = shop.connect(pool_size=1, max_overflow=0, pool_timeout=0)
    with Session(engine) as session, Session(engine) as late:
        shop.storage.bind(session)
        with pytest.raises(StorageUnavailable, match=r"Session could not begin: QueuePool limit"):
            shop.storage.bind(late)
    engine.dispose()


def test_what_opens_connections(shop: Shop) -> None:
    for wrong, words in (
        (shop.engine, r"sqlalchemy\.\S*Engine: bind a Connection: `with engine\.begin\(\) as connection:`"),
        (sessionmaker(shop.engine), "sessionmaker: bind a Session that it makes"),
        (Session, "open one with"),
    ):
        with pytest.raises(InvalidValue, match=words):
            shop.storage.bind(wrong)  # type: ignore[arg-type]


def test_a_session_of_the_other_engine(postgres: Storage, path: Path, database_url: str) -> None:
    url = database_url.replace("postgresql://", "postgresql+psycopg://")
    engines = sa.create_engine(f"sqlite:///{path}"), sa.create_engine(url), sa.create_engine("sqlite://")
    with Session(engines[0]) as session, pytest.raises(InvalidValue) as caught:
        postgres.bind(session)
    assert str(caught.value) == (
        "the sqlalchemy.orm.Session uses the driver sqlite3, and the engine of this storage psycopg: "
        "create the engine with a URL that begins with postgresql+psycopg://"
    )
    with Storage(SqliteBackend(path)) as storage, Session(engines[1]) as session:
        with pytest.raises(
            InvalidValue, match=r"driver psycopg, and .* sqlite3: .* sqlite:// or sqlite\+aio"
        ):
            storage.bind(session)
        with Session(engines[2]) as other, pytest.raises(InvalidValue, match="same file"):
            storage.bind(other)
    for engine in engines:
        engine.dispose()


@pytest.mark.parametrize("module", ["psycopg2.extensions", "asyncpg.connection", "pg8000.dbapi"])
def test_another_driver(module: str) -> None:
    driver = type("Connection", (), {"__module__": module})()
    callers = CallersConnection(driver, "sqlalchemy.orm.Session", "SQLAlchemy")
    assert str(cannot_be_bound(callers, psycopg.Connection)) == (
        f"the sqlalchemy.orm.Session uses the driver {module.partition('.')[0]}, and the engine of this "
        "storage psycopg: create the engine with a URL that begins with postgresql+psycopg://"
    )


def test_the_memory_engine(shop: Shop) -> None:
    with Session(shop.engine) as session, pytest.raises(InvalidValue) as raised:
        Storage(MemoryBackend()).bind(session)
    assert str(raised.value) == (
        "MemoryBackend has no connections to bind; got a Session. "
        "The engines sqlite and postgres have connections; in tests, use sqlite"
    )


def test_a_session_of_a_storage_with_await(shop: Shop) -> None:
    async def main() -> list[str]:
        async with AsyncStorage(shop.storage) as storage:
            session = scoped_session(sessionmaker(shop.engine))
            bound = await storage.bind(session)
            await bound.queue.schedule("x", "bread", NOW)
            session.commit()
            with pytest.raises(StorageClosed):
                await bound.queue.schedule("x", "late", NOW)
            session.remove()
            return [job.content for job in await storage.queue.list()]

    assert asyncio.run(main()) == ["bread"]
