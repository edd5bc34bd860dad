"""A cancelled await leaves nothing behind, and no await holds up the event loop."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import psycopg
import pytest

from assistly.storage import AsyncStorage, ClaimState, Conflict, InvalidValue, NewJob
from assistly.storage.engines.sqlite.driver import sqlite3

Open = Callable[..., AsyncStorage]
Held = Callable[[], Any]

THREADS = 4
CANCELLED = 500
SEED = 7


class Undo(Exception):
    """Raised on purpose."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(90):
            return await work

    return asyncio.run(bounded())


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
def hold_writers(request: pytest.FixtureRequest, engine: str, tmp_path: Path) -> Callable[[], Any]:
    """A block in which a call that writes a nonce has to wait."""

    @contextmanager
    def on_sqlite() -> Iterator[None]:
        connection = sqlite3.connect(tmp_path / "async.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
        connection.close()

    @contextmanager
    def on_postgres() -> Iterator[None]:
        schema = request.getfixturevalue("schema")
        with psycopg.connect(request.getfixturevalue("database_url")) as connection:
            connection.execute(f"LOCK TABLE {schema}.assistly_nonces IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()

    return on_sqlite if engine == "sqlite" else on_postgres


class Mixture:
    """Operations on pairs of records of which there must never be one alone."""

    def __init__(self, storage: AsyncStorage, seed: int) -> None:
        self.storage = storage
        self.names: list[str] = []
        self._random = random.Random(seed)

    async def one(self, number: int) -> None:
        name = f"n{number}"
        self.names.append(name)
        kinds = [self._pair, self._nested, self._update, self._once, self._batch]
        await kinds[number % len(kinds)](name)

    async def ticks(self) -> None:
        for _ in range(self._random.choice([0, 1, 3, 10, 30, 100, 300])):
            await asyncio.sleep(0)

    async def check(self) -> None:
        for name in self.names:
            there = {
                await self.storage.nonces.seen(name),
                bool(await self.storage.events.list(event_type=name)),
            }
            assert len(there) == 1, name
            assert len(await self.storage.queue.list(platform=name)) in (0, 3), name
            claim = await self.storage.idempotency.claim(name)
            assert claim.state is not ClaimState.IN_PROGRESS, name

    async def _pair(self, name: str) -> None:
        async with self.storage.transaction() as tx:
            await tx.nonces.register(name)
            await tx.events.append(name, 1)

    async def _nested(self, name: str) -> None:
        async with self.storage.transaction() as tx, tx.transaction() as nested:
            await asyncio.gather(nested.nonces.register(name), nested.events.append(name, 1))

    async def _update(self, name: str) -> None:
        await self.storage.sessions.update("shared", lambda n: n + 1, default=0)
        await self.storage.sessions.get(name)

    async def _once(self, name: str) -> None:
        async def work() -> str:
            await self.ticks()
            return name

        await self.storage.idempotency.run_once(name, work)

    async def _batch(self, name: str) -> None:
        await self.storage.queue.schedule_many([NewJob(name, "a")] * 3)


def test_cancelled_at_random(open_one: Open) -> None:
    async def main() -> None:
        async with open_one(threads=THREADS) as storage:
            mixture = Mixture(storage, seed=SEED)
            numbers = iter(range(CANCELLED))
            cancelled = 0

            async def one_after_the_other() -> None:
                nonlocal cancelled
                for number in numbers:
                    task = asyncio.create_task(mixture.one(number))
                    await mixture.ticks()
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                    cancelled += task.cancelled()

            await asyncio.gather(*(one_after_the_other() for _ in range(8)))
            assert cancelled > CANCELLED / 10
            await all_threads_are_usable(storage)
            await mixture.check()
            await storage.sessions.put("shared", 0)

    run(main())


async def all_threads_are_usable(storage: AsyncStorage) -> None:
    """Each by a transaction; in memory and on SQLite one transaction waits for the other."""
    barrier = asyncio.Barrier(THREADS)
    shared = "memory" in repr(storage).lower() or "sqlite" in repr(storage).lower()

    async def transact(number: int) -> None:
        async with storage.transaction() as tx:
            if not shared:
                await barrier.wait()
            await tx.nonces.register(f"last-{number}")

    async with asyncio.timeout(30):
        await asyncio.gather(*(transact(number) for number in range(THREADS)))
        await asyncio.gather(*(storage.ping() for _ in range(3 * THREADS)))


def test_a_cancelled_body_is_undone(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage:
            inside = asyncio.Event()

            async def transact() -> None:
                async with storage.transaction() as tx:
                    await tx.nonces.register("a")
                    inside.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(transact())
            await inside.wait()
            await cancel(task)
            assert not await storage.nonces.seen("a")

    run(main())


def test_a_commit_that_has_begun_is_awaited(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage:
            inside = asyncio.Event()

            async def transact() -> None:
                async with storage.transaction() as tx:
                    await tx.nonces.register("a")
                    inside.set()

            task = asyncio.create_task(transact())
            await inside.wait()
            task.cancel()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert await storage.nonces.seen("a")

    run(main())


@pytest.mark.parametrize("engine", ["sqlite", "postgres"], indirect=True)
def test_a_cancelled_begin_comes_back_at_once(open_one: Open, hold_writers: Held) -> None:
    async def main() -> None:
        async with open_one(threads=2) as storage:
            await storage.ping()

            async def write() -> None:
                async with storage.transaction() as tx:
                    await tx.nonces.register("a")

            with hold_writers():
                # Not `register`, which would make both of one batch, and leave a thread free to begin.
                waiting = [asyncio.create_task(storage.nonces.register_many(["b"])) for _ in range(2)]
                queued = asyncio.create_task(write())
                await asyncio.sleep(0)
                async with asyncio.timeout(5):
                    for task in [queued, *waiting]:
                        await cancel(task)
            async with asyncio.timeout(30):
                await storage.nonces.register("c")
                assert not await storage.nonces.seen("a")

    run(main())


@pytest.mark.parametrize("engine", ["sqlite", "postgres"], indirect=True)
def test_a_second_cancellation_does_not_wait_for_the_end(open_one: Open) -> None:
    async def main() -> None:
        async with open_one(threads=THREADS) as storage:
            loop = asyncio.get_running_loop()
            begun, go_on = asyncio.Event(), threading.Event()

            def change(_: Any) -> int:
                loop.call_soon_threadsafe(begun.set)
                assert go_on.wait(30)
                return 1

            async def transact() -> None:
                async with storage.transaction() as tx:
                    await tx.sessions.update("user", change)

            task = asyncio.create_task(transact())
            await begun.wait()
            task.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            assert not task.done()
            await cancel(task)
            go_on.set()
            await all_threads_are_usable(storage)
            assert await storage.sessions.get("user") is None

    run(main())


@pytest.mark.parametrize("engine", ["sqlite", "postgres"], indirect=True)
def test_the_event_loop_goes_on(open_one: Open, hold_writers: Held) -> None:
    async def main() -> None:
        async with open_one(threads=THREADS) as storage:
            await storage.ping()

            async def transact(number: int) -> bool:
                async with storage.transaction() as tx:
                    return await tx.nonces.register(f"t{number}")

            # A call that waited on the loop's thread would wait for the end of this block, which is after it.
            with hold_writers():
                writers = [
                    asyncio.create_task(work)
                    for number in range(25)
                    for work in (storage.nonces.register(f"n{number}"), transact(number))
                ]
                for _ in range(100):
                    await asyncio.sleep(0.002)
                assert not any(writer.done() for writer in writers)
            assert await asyncio.gather(*writers) == [True] * 50

    run(main())


# Callbacks


def test_run_once_with_an_async_function(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage:
            calls = []

            async def work() -> dict[str, int]:
                calls.append(await storage.nonces.register("inside"))
                return {"n": len(calls)}

            once = storage.idempotency.run_once
            assert await once("key", work) == await once("key", work) == {"n": 1}
            assert calls == [True]

            async def fail() -> None:
                with pytest.raises(Conflict):
                    await once("failing", work)
                raise Undo

            with pytest.raises(Undo):
                await once("failing", fail)
            assert (await storage.idempotency.claim("failing")).state is ClaimState.ACQUIRED

            async def wrong() -> object:
                return object()

            with pytest.raises(InvalidValue):
                await once("wrong", wrong)  # type: ignore[type-var]
            with pytest.raises(InvalidValue, match="async function itself"):
                await once("wrong", lambda: wrong())  # type: ignore[type-var]
            assert await once("wrong", lambda: 2) == 2

    run(main())


def test_a_cancelled_async_function_frees_the_key(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage:
            begun = asyncio.Event()

            async def work() -> None:
                begun.set()
                await asyncio.Event().wait()

            task = asyncio.create_task(storage.idempotency.run_once("key", work))
            await begun.wait()
            await cancel(task)
            assert await storage.idempotency.run_once("key", lambda: 1) == 1

    run(main())


def test_a_session_is_not_changed_by_an_async_function(open_one: Open) -> None:
    async def change(data: Any) -> Any:
        return data

    async def main() -> None:
        async with open_one() as storage:
            with pytest.raises(InvalidValue, match="plain function"):
                await storage.sessions.update("user", change)  # type: ignore[arg-type]

    run(main())


def test_callbacks_have_the_callers_context(open_one: Open) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")

    async def main() -> None:
        tenant.set("bakery")
        async with open_one() as storage:
            session = await storage.sessions.update("user", lambda _: tenant.get())
            assert session.data == "bakery"
            async with storage.transaction() as tx:
                assert await tx.idempotency.run_once("key", tenant.get) == "bakery"

    run(main())


def test_a_callback_that_raises_stop_iteration(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage:
            with pytest.raises(RuntimeError):
                await storage.sessions.update("user", lambda _: next(iter(())))
            async with storage.transaction() as tx:
                with pytest.raises(RuntimeError):
                    await tx.sessions.update("user", lambda _: next(iter(())))

    run(main())


# Waiting


def test_waits_share_one_thread(open_one: Open) -> None:
    def waiting_threads() -> int:
        return sum(thread.name == "assistly-wait" for thread in threading.enumerate())

    async def main() -> None:
        before = waiting_threads()
        async with open_one(threads=1) as storage:
            assert await storage.queue.wait(0) is False
            assert await storage.queue.wait(0.001) is False
            for _ in range(20):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        await storage.queue.wait(600)
            waits = [asyncio.create_task(storage.queue.wait(600)) for _ in range(20)]
            assert await storage.queue.wait(0.01) is False
            assert waiting_threads() <= before + 1
            await storage.queue.schedule("x", "a")
            assert await storage.queue.wait(0) is True
            async with asyncio.timeout(30):
                assert await asyncio.gather(*waits) == [True] * 20

    run(main())
