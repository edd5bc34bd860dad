"""The API with await on Postgres: a caller's connection, and a worker on the caller's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from assistly.storage import AsyncStorage, Job, JobStatus, open_async_storage
from assistly.storage.aio.opening import AsyncOpening
from assistly.worker import AsyncWorker

LONG = 60.0
Open = Callable[..., AsyncOpening]


class Undo(Exception):
    pass


@pytest.fixture
def open_one(database_url: str, schema: str) -> Open:
    def opening(**settings: Any) -> AsyncOpening:
        settings = {"engine": "postgres", "database_url": database_url, "schema": schema} | settings
        return open_async_storage(auto_prune=False, **settings)

    return opening


async def status(storage: AsyncStorage, job: Job) -> JobStatus:
    found = await storage.queue.get(job.id)
    assert found is not None
    return found.status


def test_bound_to_a_connection(open_one: Open, database_url: str) -> None:
    async def main() -> None:
        async with open_one() as storage:
            with psycopg.connect(database_url) as connection:
                bound = await storage.bind(connection)
                await bound.nonces.register("undone")
                with suppress(Undo):
                    async with bound.transaction() as nested:
                        await nested.nonces.register("nested")
                        raise Undo
                assert not await bound.nonces.seen("nested")
                connection.rollback()
                await asyncio.gather(*(bound.nonces.register(f"kept-{number}") for number in range(20)))
                assert not await storage.nonces.seen("kept-0")
                connection.commit()
            assert not await storage.nonces.seen("undone")
            assert all([await storage.nonces.seen(f"kept-{number}") for number in range(20)])

    asyncio.run(main())


def test_a_worker_shares_the_loop_with_its_scheduler(open_one: Open) -> None:
    async def main() -> None:
        async with open_one(pool_size=2) as storage:
            published: list[int] = []
            all_published = asyncio.Event()

            async def publish(job: Job) -> str:
                await asyncio.sleep(0)
                published.append(job.id)
                if len(published) == 50:
                    all_published.set()
                return f"remote-{job.id}"

            worker = AsyncWorker(storage, {"x": publish}, poll=LONG)
            running = asyncio.create_task(worker.run(handle_signals=False))
            jobs = [await storage.queue.schedule("x", f"number {number}") for number in range(50)]
            await asyncio.wait_for(all_published.wait(), LONG)
            worker.stop()
            await asyncio.wait_for(running, LONG)
            assert sorted(published) == [job.id for job in jobs]
            assert {await status(storage, job) for job in jobs} == {JobStatus.POSTED}

    asyncio.run(main())


def test_a_worker_survives_the_loss_of_its_connections(
    open_one: Open, database_url: str, schema: str
) -> None:
    terminate = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND position(%s IN query) > 0
    """

    async def main() -> None:
        async with open_one() as storage:
            gate = asyncio.Event()
            begun = asyncio.Event()

            async def publish(job: Job) -> None:
                begun.set()
                await gate.wait()

            worker = AsyncWorker(storage, {"x": publish})
            running = asyncio.create_task(worker.run(handle_signals=False))
            job = await storage.queue.schedule("x", "hello")
            await asyncio.wait_for(begun.wait(), LONG)
            with psycopg.connect(database_url, autocommit=True) as connection:
                assert connection.execute(terminate, [schema]).fetchall()
            gate.set()
            while await status(storage, job) is not JobStatus.POSTED:
                await asyncio.sleep(0.01)
            later = await storage.queue.schedule("x", "once more")
            while await status(storage, later) is not JobStatus.POSTED:
                await asyncio.sleep(0.01)
            worker.stop()
            await asyncio.wait_for(running, LONG)
            assert worker.counts == {"posted": 2}

    asyncio.run(main())
