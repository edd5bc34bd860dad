"""The storage with await in the transactions of SQLAlchemy's asyncio extension."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import AsyncAdaptedQueuePool

from assistly.storage import (
    AsyncStorage,
    InvalidValue,
    MemoryBackend,
    PostgresBackend,
    ScheduleConflict,
    SqliteBackend,
    Storage,
    StorageClosed,
    StorageUnavailable,
)
from integrations.test_bind_sqlalchemy import NOW, Base, Order, begin_always


class Shop:
    """A storage, and an engine of SQLAlchemy on the same database."""

    def __init__(self, storage: AsyncStorage, url: str, schema: str | None) -> None:
        self.storage = storage
        self.url = url
        self.schema = schema
        self.engine = self.connect()
        self.session = async_sessionmaker(self.engine)

    def connect(self, **options: Any) -> AsyncEngine:
        if self.schema is not None:
            options["execution_options"] = {"schema_translate_map": {None: self.schema}}
        return create_async_engine(self.url, **options)

    async def stored(self) -> tuple[list[str], list[str]]:
        """The items of the orders, and the contents of the jobs."""
        async with self.session() as session:
            items = list(await session.scalars(sa.select(Order.item).order_by(Order.item)))
        return items, sorted(job.content for job in await self.storage.queue.list())


Work = Callable[[Shop], Awaitable[None]]


@pytest.fixture(params=["sqlite", "postgres"])
def run(request: pytest.FixtureRequest, path: Path) -> Callable[[Work], None]:
    """Runs a function with a shop, on an event loop of its own."""

    async def main(work: Work) -> None:
        if request.param == "sqlite":
            backend: Any = SqliteBackend(path)
            url, schema = f"sqlite+aiosqlite:///{path}", None
        else:
            url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("schema")
            backend = PostgresBackend(url, schema=schema)
            url = url.replace("postgresql://", "postgresql+psycopg://")
        async with AsyncStorage(Storage(backend, auto_prune=False)) as storage:
            await storage.ping()
            shop = Shop(storage, url, schema)
            async with shop.engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            try:
                await work(shop)
            finally:
                await shop.engine.dispose()

    return lambda work: asyncio.run(asyncio.wait_for(main(work), 60))


async def order(session: AsyncSession, storage: AsyncStorage, item: str) -> None:
    session.add(Order(item=item))
    await storage.queue.schedule("x", item, NOW)


def test_a_session(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        async with shop.session() as session, session.begin():
            await order(session, await shop.storage.bind(session), "bread")
            assert await shop.storage.queue.list() == []
        with pytest.raises(KeyError):
            async with shop.session() as session, session.begin():
                await order(session, await shop.storage.bind(session), "cake")
                await session.flush()
                raise KeyError
        async with shop.session() as session:
            await order(session, await shop.storage.bind(session), "scone")
            await session.rollback()
            await order(session, await shop.storage.bind(session), "tart")
            await session.commit()
            await order(session, await shop.storage.bind(session), "pie")
        assert await shop.stored() == (["bread", "tart"],) * 2

    run(work)


def test_a_connection(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        insert = sa.insert(Order)
        async with shop.engine.begin() as connection:
            await connection.execute(insert, {"item": "bread"})
            await (await shop.storage.bind(connection)).queue.schedule("x", "bread", NOW)
        async with shop.engine.connect() as connection:
            await (await shop.storage.bind(connection)).queue.schedule("x", "cake", NOW)
            await connection.execute(insert, {"item": "cake"})
            await connection.commit()
            await (await shop.storage.bind(connection)).queue.schedule("x", "scone", NOW)
        assert await shop.stored() == (["bread", "cake"],) * 2

    run(work)


def test_a_scoped_session(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        session = async_scoped_session(shop.session, asyncio.current_task)
        await (await shop.storage.bind(session)).queue.schedule("x", "bread", NOW)
        await session.commit()
        await (await shop.storage.bind(session)).queue.schedule("x", "cake", NOW)
        await session.remove()
        assert await shop.stored() == ([], ["bread"])

    run(work)


def test_savepoints(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        async with shop.session() as session, session.begin():
            bound = await shop.storage.bind(session)
            await order(session, bound, "bread")
            with pytest.raises(KeyError):
                async with session.begin_nested():
                    await order(session, bound, "cake")
                    raise KeyError
            async with session.begin_nested():
                inner = await shop.storage.bind(session)
                await order(session, inner, "scone")
            with pytest.raises(StorageClosed):
                await inner.queue.schedule("x", "late", NOW)
            with pytest.raises(KeyError):
                async with bound.transaction() as tx:
                    await order(session, tx, "tart")
                    await session.flush()
                    raise KeyError
            async with bound.transaction() as tx:
                await order(session, tx, "pie")
        assert await shop.stored() == (["bread", "pie", "scone"],) * 2

    run(work)


@pytest.mark.parametrize("way", ["events", "autocommit=False"])
def test_a_savepoint_first_on_sqlite(path: Path, way: str) -> None:
    """In the ways that SQLAlchemy recommends: without them, leaving the savepoint commits it."""
    if way != "events" and sys.version_info < (3, 12):
        pytest.skip("`autocommit` came with Python 3.12")

    async def main() -> None:
        async with AsyncStorage(Storage(SqliteBackend(path), auto_prune=False)) as storage:
            await storage.ping()
            shop = Shop(storage, f"sqlite+aiosqlite:///{path}", None)
            async with shop.engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            engine = shop.connect(connect_args={} if way == "events" else {"autocommit": False})
            if way == "events":
                begin_always(engine.sync_engine)
            async with AsyncSession(engine) as session:
                async with session.begin_nested():
                    await order(session, await storage.bind(session), "bread")
                await session.rollback()
                async with session.begin_nested():
                    await order(session, await storage.bind(session), "cake")
                await session.commit()
            await engine.dispose()
            assert await shop.stored() == (["cake"],) * 2
            await shop.engine.dispose()

    asyncio.run(main())


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_after_the_end(run: Callable[[Work], None], end: str) -> None:
    async def work(shop: Shop) -> None:
        engine = shop.connect(poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0)
        async with AsyncSession(engine) as session, AsyncSession(engine) as other:
            bound = await shop.storage.bind(session)
            with pytest.raises(StorageClosed, match="has ended: bind it again"):
                async with bound.transaction():
                    await getattr(session, end)()
                    await order(other, await shop.storage.bind(other), "bread")
                    await other.flush()
            for call in (
                lambda: bound.queue.schedule("x", "late", NOW),
                bound.queue.list,
                lambda: bound.idempotency.put("late", 1),
                bound.transaction().__aenter__,
            ):
                with pytest.raises(StorageClosed, match="has ended: bind it again"):
                    await call()
            await other.commit()
            await session.commit()
        await engine.dispose()
        assert await shop.stored() == (["bread"],) * 2

    run(work)


def test_many_at_once(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        gap = timedelta(minutes=1)

        async def place(item: str, at: datetime) -> bool:
            try:
                async with shop.session() as session, session.begin():
                    bound = await shop.storage.bind(session)
                    await bound.queue.schedule("x", item, at, min_gap=gap)
                    session.add(Order(item=item))
            except ScheduleConflict:
                return False
            return True

        apart = [place(f"{number}", NOW + number * gap) for number in range(20)]
        assert all(await asyncio.gather(*apart))
        at_once = [place(f"{number}", NOW + 100 * gap) for number in range(20, 30)]
        assert sum(await asyncio.gather(*at_once)) == 1
        items, contents = await shop.stored()
        assert items == contents
        assert len(items) == 21

    run(work)


def test_the_tasks_of_one_session(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        async with shop.session() as session, session.begin():
            bound = await shop.storage.bind(session)
            await asyncio.gather(*(bound.nonces.register(f"n-{number}") for number in range(20)))
            assert not await shop.storage.nonces.seen("n-0")
        assert all([await shop.storage.nonces.seen(f"n-{number}") for number in range(20)])

    run(work)


def test_the_event_loop_goes_on(run: Callable[[Work], None]) -> None:
    """While a call waits for a lock that another session holds, that session can commit."""

    async def work(shop: Shop) -> None:
        async with shop.session() as holder, shop.session() as waiter:
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


def test_a_cancelled_call_leaves_the_connection_usable(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        async with shop.session() as session:
            bound = await shop.storage.bind(session)
            for turns in range(12):
                call = asyncio.create_task(bound.queue.schedule("x", "cake", NOW))
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
            await session.rollback()
            await order(session, await shop.storage.bind(session), "bread")
            await session.commit()
        assert await shop.stored() == (["bread"],) * 2

    run(work)


def test_in_autocommit(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        engine = shop.connect(isolation_level="AUTOCOMMIT")
        async with AsyncSession(engine) as session:
            with pytest.raises(InvalidValue, match="AUTOCOMMIT"):
                await shop.storage.bind(session)
        await engine.dispose()

    run(work)


def test_the_isolation_level_is_that_of_the_engine(run: Callable[[Work], None]) -> None:
    """Also where the storage makes the first call in the transaction."""

    async def work(shop: Shop) -> None:
        engine = shop.connect(isolation_level="SERIALIZABLE")
        async with AsyncSession(engine) as session:
            await (await shop.storage.bind(session)).queue.list()
            if shop.schema is not None:
                assert await session.scalar(sa.text("SHOW transaction_isolation")) == "serializable"
        await engine.dispose()

    run(work)


def test_the_pool_gets_the_connection_back_as_it_was(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        engine = shop.connect(poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0)

        async def look() -> dict[str, Any]:
            async with engine.connect() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                if shop.schema is None:
                    names = ("row_factory", "text_factory", "isolation_level", "in_transaction")
                    return {name: getattr(raw, name) for name in names}
                settings = await connection.execute(
                    sa.text("SELECT name, setting FROM pg_settings ORDER BY 1")
                )
                prepared = await connection.execute(sa.text("SELECT name FROM pg_prepared_statements"))
                handlers = raw.pgconn.notice_handler, raw.pgconn.notify_handler
                own = {name: value for name, value in vars(raw).items() if name not in ("_prepared", "lock")}
                return own | {"settings": settings.all(), "prepared": prepared.all(), "handlers": handlers}

        before = await look()
        async with AsyncSession(engine) as session:
            bound = await shop.storage.bind(session)
            await bound.queue.schedule("x", "bread", NOW)
            await bound.queue.claim_due(worker_id="w", now=NOW)
            async with bound.transaction() as tx:
                await tx.sessions.put("u", {})
            await session.commit()
        assert await look() == before
        await engine.dispose()

    run(work)


def test_a_pool_that_lends_no_more_connections(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        engine = shop.connect(poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0, pool_timeout=0)
        async with AsyncSession(engine) as session, AsyncSession(engine) as late:
            await shop.storage.bind(session)
            with pytest.raises(StorageUnavailable, match="AsyncSession could not begin: QueuePool limit"):
                await shop.storage.bind(late)
        await engine.dispose()

    run(work)


def test_what_cannot_be_bound(run: Callable[[Work], None]) -> None:
    async def work(shop: Shop) -> None:
        with pytest.raises(InvalidValue, match="AsyncEngine: bind an AsyncConnection"):
            await shop.storage.bind(shop.engine)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="async_sessionmaker: bind an AsyncSession that it makes"):
            await shop.storage.bind(shop.session)  # type: ignore[arg-type]
        async with shop.engine.connect() as connection:
            pass
        with pytest.raises(InvalidValue, match="cannot be used"):
            await shop.storage.bind(connection)
        async with shop.session() as session:
            plain = shop.storage._storage
            with pytest.raises(
                InvalidValue, match=r"AsyncSession, but this storage is synchronous: use an AsyncStorage"
            ):
                plain.bind(session)
            with pytest.raises(InvalidValue) as caught:
                await session.run_sync(plain.bind)
            assert str(caught.value) == (
                "the sqlalchemy.orm.Session belongs to an AsyncSession or AsyncConnection (run_sync): "
                "bind that to an AsyncStorage, outside of the function"
            )
            with pytest.raises(InvalidValue, match="has no connections to bind; got an AsyncSession"):
                await AsyncStorage(Storage(MemoryBackend())).bind(session)
        url = (
            "sqlite+aiosqlite:////no/such/file"
            if shop.schema is None
            else "postgresql+psycopg://localhost:1/x"
        )
        nowhere = create_async_engine(url)
        async with AsyncSession(nowhere) as session:
            with pytest.raises(StorageUnavailable, match="could not begin"):
                await shop.storage.bind(session)

    run(work)


def test_a_session_of_the_other_engine(run: Callable[[Work], None], database_url: str) -> None:
    async def work(shop: Shop) -> None:
        url = database_url.replace("postgresql://", "postgresql+psycopg://")
        engine = create_async_engine(url if shop.schema is None else "sqlite+aiosqlite://")
        async with AsyncSession(engine) as session:
            with pytest.raises(InvalidValue, match=r"uses the driver .*: create the engine with a URL"):
                await shop.storage.bind(session)
        await engine.dispose()

    run(work)
