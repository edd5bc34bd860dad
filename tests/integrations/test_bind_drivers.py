"""The storage in the transactions of the drivers for asyncio: aiosqlite, and psycopg's AsyncConnection."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import psycopg
import pytest

from assistly.storage import (
    AsyncStorage,
    InvalidValue,
    PostgresBackend,
    ScheduleConflict,
    SqliteBackend,
    Storage,
    StorageClosed,
    StorageUnavailable,
    TransactionAborted,
    TransactionOpen,
)
from waiting import until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Shop:
    """A storage, and the driver's connections to the same database."""

    def __init__(self, storage: AsyncStorage, connect: Callable[..., Any], orders: str) -> None:
        self.storage = storage
        self.connect = connect
        self.orders = orders

    @property
    def is_sqlite(self) -> bool:
        return self.orders == "orders"

    async def order(self, connection: Any, storage: AsyncStorage, item: str) -> None:
        await connection.execute(f"INSERT INTO {self.orders} VALUES ('{item}')")
        await storage.queue.schedule("x", item, NOW)

    async def stored(self) -> tuple[list[str], list[str]]:
        """The items of the orders, and the contents of the jobs."""
        async with self.connect() as connection:
            cursor = await connection.execute(f"SELECT item FROM {self.orders} ORDER BY item")
            items = [item for (item,) in await cursor.fetchall()]
        return items, sorted(job.content for job in await self.storage.queue.list())


Work = Callable[[Shop], Coroutine[Any, Any, None]]
Run = Callable[[Work], None]


@pytest.fixture(params=["sqlite", "postgres"])
def run(request: pytest.FixtureRequest, path: Path) -> Iterator[Run]:
    """Runs a function with a shop, on an event loop of its own."""

    @asynccontextmanager
    async def connect(**options: Any) -> Any:
        if request.param == "sqlite":
            opening: Any = aiosqlite.connect(path, **options)
        else:
            opening = await psycopg.AsyncConnection.connect(
                request.getfixturevalue("database_url"), **options
            )
        async with opening as connection:
            yield connection
            with suppress(ValueError, psycopg.OperationalError):  # a closed one
                await connection.rollback()

    async def main(work: Work) -> None:
        if request.param == "sqlite":
            backend: Any = SqliteBackend(path)
            orders = "orders"
        else:
            schema = request.getfixturevalue("schema")
            backend = PostgresBackend(request.getfixturevalue("database_url"), schema=schema)
            orders = f"{schema}.orders"
        async with AsyncStorage(Storage(backend, auto_prune=False)) as storage:
            await storage.ping()
            async with connect() as connection:
                await connection.execute(f"CREATE TABLE {orders} (item TEXT)")
                await connection.commit()
            await work(Shop(storage, connect, orders))

    before = threading.active_count()
    yield lambda work: asyncio.run(asyncio.wait_for(main(work), 60))
    until(lambda: threading.active_count() <= before)


def test_the_caller_commits_or_rolls_back(run: Run) -> None:
    async def work(shop: Shop) -> None:
        async with shop.connect() as connection:
            bound = await shop.storage.bind(connection)
            await shop.order(connection, bound, "bread")
            assert await shop.storage.queue.list() == []
            await connection.commit()
            await bound.queue.schedule("x", "cake", NOW)
            await connection.rollback()
            await bound.queue.schedule("x", "scone", NOW)
            await shop.order(connection, bound, "tart")
            await connection.commit()
            await shop.order(connection, bound, "pie")
        assert await shop.stored() == (["bread", "tart"], ["bread", "scone", "tart"])

    run(work)


def test_nested_transactions(run: Run) -> None:
    async def work(shop: Shop) -> None:
        async with shop.connect() as connection:
            bound = await shop.storage.bind(connection)
            with pytest.raises(KeyError):
                async with bound.transaction() as tx:
                    await shop.order(connection, tx, "bread")
                    with pytest.raises(TransactionOpen):
                        await bound.nonces.register("n")
                    raise KeyError
            async with bound.transaction() as tx:
                await shop.order(connection, tx, "cake")
                with suppress(KeyError):
                    async with tx.transaction() as inner:
                        await shop.order(connection, inner, "scone")
                        raise KeyError
            await connection.commit()
        assert await shop.stored() == (["cake"],) * 2

    run(work)


def test_a_transaction_that_lost_a_race_must_be_run_again(run: Run) -> None:
    async def work(shop: Shop) -> None:
        await shop.storage.sessions.put("u", 0)
        async with shop.connect() as connection:
            begin = "BEGIN" if shop.is_sqlite else "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
            await connection.execute(begin)
            bound = await shop.storage.bind(connection)
            assert await bound.sessions.get("u")
            await shop.storage.sessions.put("u", 1)
            with pytest.raises(TransactionAborted):
                await bound.sessions.put("u", 2)
            await connection.rollback()
            await connection.execute(begin)
            assert (await bound.sessions.put("u", 3)).version == 3
            await connection.commit()

    run(work)


@pytest.mark.parametrize("run", ["postgres"], indirect=True)
def test_a_transaction_of_psycopg(run: Run) -> None:
    async def work(shop: Shop) -> None:
        async with shop.connect(autocommit=True) as connection:
            bound = await shop.storage.bind(connection)
            async with connection.transaction():
                await shop.order(connection, bound, "bread")
                with suppress(KeyError):
                    async with connection.transaction():
                        await shop.order(connection, bound, "cake")
                        raise KeyError
            await bound.queue.schedule("x", "scone", NOW)
        assert await shop.stored() == (["bread"], ["bread", "scone"])

    run(work)


@pytest.mark.parametrize("run", ["postgres"], indirect=True)
def test_what_the_connection_was_told_of_transactions(run: Run) -> None:
    """The storage's first statement begins the transaction that the connection's own would begin."""

    async def work(shop: Shop) -> None:
        async with shop.connect() as connection:
            bound = await shop.storage.bind(connection)
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await connection.set_read_only(True)
            await connection.set_deferrable(True)
            await bound.queue.list()
            for setting, value in (
                ("isolation", "repeatable read"),
                ("read_only", "on"),
                ("deferrable", "on"),
            ):
                cursor = await connection.execute(f"SHOW transaction_{setting}")
                assert await cursor.fetchone() == (value,)
            await connection.rollback()
            await connection.set_isolation_level(None)
            await connection.set_read_only(None)
            await connection.set_autocommit(True)
            await bound.queue.schedule("x", "bread", NOW)
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert await shop.stored() == ([], ["bread"])

    run(work)


@pytest.mark.parametrize("run", ["postgres"], indirect=True)
def test_notices_and_notifications_reach_the_handlers_of_the_connection(run: Run) -> None:
    async def work(shop: Shop) -> None:
        async with shop.connect(autocommit=True) as connection:
            notices: list[str] = []
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
            connection.add_notify_handler(lambda notify: notices.append(notify.payload))
            bound = await shop.storage.bind(connection)
            await bound.queue.list()
            await connection.execute("DO $$ BEGIN RAISE NOTICE 'said'; END $$")
            await connection.execute("LISTEN here")
            await connection.execute("NOTIFY here, 'heard'")
            assert notices == ["said", "heard"]

    run(work)


def test_many_tasks_on_one_connection(run: Run) -> None:
    """The storage's calls and the connection's own take turns."""

    async def work(shop: Shop) -> None:
        async with shop.connect() as connection:
            bound = await shop.storage.bind(connection)
            insert = f"INSERT INTO {shop.orders} VALUES ('bread')"
            await asyncio.gather(
                *(bound.queue.schedule("x", "bread", NOW) for _ in range(20)),
                *(connection.execute(insert) for _ in range(20)),
            )
            await connection.commit()
        assert await shop.stored() == (["bread"] * 20,) * 2

    run(work)


def test_many_connections(run: Run) -> None:
    async def work(shop: Shop) -> None:
        async def place(item: str) -> bool:
            async with shop.connect() as connection:
                bound = await shop.storage.bind(connection)
                try:
                    await bound.queue.schedule("x", item, NOW, min_gap=timedelta(minutes=1))
                except ScheduleConflict:
                    return False
                await connection.execute(f"INSERT INTO {shop.orders} VALUES ('{item}')")
                await connection.commit()
                return True

        assert sum(await asyncio.gather(*(place(f"{number}") for number in range(10)))) == 1
        items, contents = await shop.stored()
        assert items == contents

    run(work)


def test_the_event_loop_goes_on(run: Run) -> None:
    """While a call waits for a lock that another connection holds, that one can commit."""

    async def work(shop: Shop) -> None:
        async with shop.connect() as holder, shop.connect() as waiter:
            await (await shop.storage.bind(holder)).sessions.put("u", {"by": "holder"})
            bound = await shop.storage.bind(waiter)
            waiting = asyncio.create_task(bound.sessions.put("u", {"by": "waiter"}))
            for _ in range(200):
                await asyncio.sleep(0)
            assert not waiting.done()
            await holder.commit()
            await waiting
            await waiter.commit()
        session = await shop.storage.sessions.get("u")
        assert session is not None
        assert session.data == {"by": "waiter"}

    run(work)


def test_a_cancelled_call_has_ended_before_the_connection_is_used(run: Run) -> None:
    async def work(shop: Shop) -> None:
        async with shop.connect() as connection:
            bound = await shop.storage.bind(connection)
            for turns in range(15):
                call = asyncio.create_task(bound.queue.schedule("x", "cake", NOW))
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                await connection.rollback()
            assert await bound.queue.list() == []
            for turns in range(15):
                block = asyncio.create_task(a_block(bound))
                for _ in range(turns):
                    await asyncio.sleep(0)
                block.cancel()
                with suppress(asyncio.CancelledError):
                    await block
            await connection.rollback()
            await shop.order(connection, bound, "bread")
            await connection.commit()
        assert await shop.stored() == (["bread"],) * 2

    async def a_block(bound: AsyncStorage) -> None:
        async with bound.transaction() as tx:
            await tx.queue.schedule("x", "cake", NOW)

    run(work)


def test_closing_the_connection_during_a_cancelled_call(run: Run) -> None:
    """The connection is not closed under the thread that uses it."""

    async def work(shop: Shop) -> None:
        for turns in range(15):
            async with shop.connect() as connection:
                bound = await shop.storage.bind(connection)
                call = asyncio.create_task(bound.queue.schedule("x", "cake", NOW))
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                await connection.close()
                with pytest.raises((StorageClosed, StorageUnavailable), match="closed"):
                    await bound.queue.list()
        assert await shop.stored() == ([], [])

    run(work)


def test_a_connection_that_is_not_open(run: Run) -> None:
    async def work(shop: Shop) -> None:
        async with shop.connect() as connection:
            pass
        with pytest.raises(InvalidValue, match=r"connection (must be open|is closed)"):
            await shop.storage.bind(connection)
        if shop.is_sqlite:
            with pytest.raises(InvalidValue, match=r"must be open: `async with aiosqlite\.connect"):
                await shop.storage.bind(aiosqlite.connect("x"))

    run(work)


def test_a_connection_of_the_other_engine(run: Run, database_url: str) -> None:
    async def work(shop: Shop) -> None:
        if shop.is_sqlite:
            async with await psycopg.AsyncConnection.connect(database_url) as connection:
                with pytest.raises(InvalidValue, match=r"psycopg\.AsyncConnection uses the driver psycopg"):
                    await shop.storage.bind(connection)
        else:
            async with aiosqlite.connect(":memory:") as other:
                with pytest.raises(InvalidValue, match="engine of this storage psycopg: bind a"):
                    await shop.storage.bind(other)

    run(work)


def test_a_storage_without_await(run: Run) -> None:
    async def work(shop: Shop) -> None:
        async with shop.connect() as connection:
            with pytest.raises(
                InvalidValue, match=r"Connection, but this storage is synchronous: use an AsyncStorage"
            ):
                shop.storage._storage.bind(connection)

    run(work)


def test_the_connection_is_as_it_was(run: Run) -> None:
    async def work(shop: Shop) -> None:
        options: dict[str, Any] = {"isolation_level": "IMMEDIATE"} if shop.is_sqlite else {}
        async with shop.connect(**options) as connection:
            if shop.is_sqlite:
                connection.row_factory = sqlite3.Row
                connection.text_factory = bytes

            def look() -> dict[str, Any]:
                if shop.is_sqlite:
                    names = ("row_factory", "text_factory", "isolation_level", "in_transaction")
                    return {name: getattr(connection, name) for name in names}
                own = {name: value for name, value in vars(connection).items() if name != "_prepared"}
                handlers = connection.pgconn.notice_handler, connection.pgconn.notify_handler
                return own | {"handlers": handlers}

            before = look()
            bound = await shop.storage.bind(connection)
            await bound.sessions.put("u", {"a": "é"})
            session = await bound.sessions.get("u")
            assert session is not None
            assert session.data == {"a": "é"}
            await connection.commit()
            assert look() == before

    run(work)
