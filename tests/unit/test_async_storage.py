"""`AsyncStorage`: what it adds to the storage below. The contract runs through it in `tests/contract`."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_overloads

import pytest

from assistly.storage import (
    AsyncStorage,
    ConfigurationError,
    InvalidValue,
    Storage,
    StorageBackend,
    StorageClosed,
    TransactionOpen,
    open_async_storage,
    open_storage,
)
from assistly.storage.aio.storage import AsyncStorage as Facade
from assistly.storage.aio.storage import AsyncTransaction
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.testing.forking import needs_fork
from waiting import until

STORES = (
    "queue",
    "sessions",
    "approvals",
    "idempotency",
    "nonces",
    "metrics",
    "lock",
    "events",
    "snapshots",
    "platforms",
    "schedules",
)
Open = Callable[..., AsyncStorage]


class Undo(Exception):
    """Raised on purpose."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(bounded())


# The same API


def operations(kind: type) -> dict[str, Any]:
    names = {name: value for base in reversed(kind.mro()) for name, value in vars(base).items()}
    return {name: value for name, value in names.items() if not name.startswith("_") and callable(value)}


def signature(function: Any, *, result: bool = True) -> inspect.Signature:
    found = inspect.signature(function, eval_str=True)
    return found if result else found.replace(return_annotation=inspect.Signature.empty)


def defaults(function: Any) -> dict[str, tuple[Any, Any]]:
    return {name: (each.kind, each.default) for name, each in signature(function).parameters.items()}


@pytest.mark.parametrize("store", STORES)
def test_the_stores_are_those_of_storage(store: str) -> None:
    with open_storage(engine="memory", auto_prune=False) as storage:
        plain = type(getattr(storage, store))
        mirror = type(getattr(AsyncStorage(storage), store))
    assert operations(mirror).keys() == operations(plain).keys()
    for name, operation in operations(plain).items():
        twin = getattr(mirror, name)
        assert inspect.iscoroutinefunction(twin), name
        if get_overloads(twin):  # its annotations stand for those of the overloads
            assert defaults(twin) == defaults(operation), name
        else:
            assert signature(twin) == signature(operation), name
        assert twin.__doc__, name
    assert mirror.__doc__ == plain.__doc__


def test_the_storage_is_that_of_storage() -> None:
    assert operations(Facade).keys() - {"aclose"} == operations(Storage).keys()
    for name, operation in operations(Storage).items():
        twin = getattr(Facade, name)
        assert twin.__doc__, name
        derives = name in ("transaction", "bind")
        assert signature(twin, result=not derives) == signature(operation, result=not derives), name
    assert signature(Facade.transaction).return_annotation is AsyncTransaction
    assert signature(Facade.bind).return_annotation is AsyncStorage


def test_it_is_opened_with_the_same_keywords() -> None:
    plain, twin = inspect.signature(open_storage), inspect.signature(open_async_storage)
    assert twin.parameters == plain.parameters


def test_asyncio_is_imported_on_demand() -> None:
    check = "import sys, assistly.storage as s; assert 'asyncio' not in sys.modules; s.AsyncStorage"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


# Opening and closing


def test_it_is_awaited_or_entered() -> None:
    async def main() -> None:
        opening = partial(open_async_storage, engine="memory", auto_prune=False)
        storage = await opening()
        await storage.sessions.put("user", 1)
        await storage.aclose()
        async with opening() as storage:
            assert await storage.sessions.get("user") is None
            assert repr(storage) == "AsyncStorage(MemoryBackend())"
        async with await opening() as storage:
            assert await storage.ping() < 5

    run(main())


def test_what_cannot_be_opened() -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError):
            await open_async_storage(engine="none")
        with pytest.raises(ConfigurationError):
            await open_async_storage(engine="sqlite", sqlite_path="/proc/none/a.db")

    before = set(threading.enumerate())
    run(main())
    until(
        lambda: not any(thread.name.startswith("assistly") for thread in set(threading.enumerate()) - before)
    )


@pytest.mark.parametrize("threads", [0, True, "1", None])
def test_the_number_of_threads_is_checked(threads: Any) -> None:
    with open_storage(engine="memory", auto_prune=False) as storage, pytest.raises(InvalidValue):
        AsyncStorage(storage, threads=threads)


def test_a_closed_one(open_one: Open) -> None:
    async def main() -> None:
        storage = open_one()
        await storage.sessions.put("user", 1)
        await storage.close()
        await storage.close()
        for call in (storage.ping, storage.queue.counts, partial(storage.queue.wait, 1), storage.__aenter__):
            with pytest.raises(StorageClosed):
                await call()
        with pytest.raises(StorageClosed):
            async with storage.transaction():
                pass

    run(main())


def test_closing_waits_for_what_is_under_way(open_one: Open) -> None:
    async def main() -> None:
        storage = open_one()
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def transact() -> None:
            async with storage.transaction() as tx:
                await tx.nonces.register("a")
                inside.set()
                await go_on.wait()
                await tx.nonces.register("b")

        transaction = asyncio.create_task(transact())
        await inside.wait()
        closing = asyncio.create_task(storage.close())
        done, _ = await asyncio.wait([closing], timeout=0.05)
        assert not done
        go_on.set()
        await transaction
        await closing

    run(main())


def test_closing_inside_ones_own_transaction_undoes_it(
    open_one: Open, make_backend: Callable[[int], StorageBackend], engine: str
) -> None:
    async def main() -> None:
        storage = open_one()
        with pytest.raises(StorageClosed, match="the storage was closed"):
            async with storage.transaction() as tx:
                await tx.nonces.register("a")
                await storage.close()
                with pytest.raises(StorageClosed):
                    await tx.nonces.register("b")
                with pytest.raises(StorageClosed):
                    await storage.ping()
        with pytest.raises(Undo):
            async with open_one() as other, other.transaction():
                await other.close()
                raise Undo
        if engine != "memory":
            async with open_one() as again:
                assert not await again.nonces.seen("a")

    run(main())


def test_closing_inside_waits_for_the_transactions_of_others(open_one: Open) -> None:
    async def main() -> None:
        storage = open_one()
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def transact() -> None:
            async with storage.transaction() as tx:
                await tx.nonces.seen("a")
                inside.set()
                await go_on.wait()
                await tx.nonces.seen("b")

        other = asyncio.create_task(transact())
        await inside.wait()
        closing = asyncio.create_task(storage.close())
        await asyncio.sleep(0)
        for call in (storage.ping, storage.transaction().__aenter__):
            with pytest.raises(StorageClosed):
                await call()
        assert not closing.done()
        go_on.set()
        await other
        await closing

    run(main())


def test_a_closing_that_its_loop_did_not_finish(open_one: Open) -> None:
    storage = open_one()

    async def left_behind() -> None:
        block = storage.transaction()
        await block.__aenter__()
        closing = asyncio.create_task(contextvars.Context().run(storage.close), context=contextvars.Context())
        await turns(5)
        assert not closing.done()
        blocks.append(block)

    blocks: list[Any] = []
    run(left_behind())
    with suppress(StorageClosed):
        run(blocks[0].__aexit__(None, None, None))
    run(storage.close())
    with pytest.raises(StorageClosed):
        run(storage.ping())


def test_closing_ends_a_wait(open_one: Open) -> None:
    async def main() -> None:
        storage = open_one()
        waits = [asyncio.create_task(storage.queue.wait(600)) for _ in range(3)]
        while not any(thread.name == "assistly-wait" for thread in threading.enumerate()):
            await asyncio.sleep(0)
        await storage.close()
        for wait in waits:
            with pytest.raises(StorageClosed):
                await wait

    run(main())


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_forked_child_is_told(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage:
            await storage.ping()
            child = os.fork()
            if child == 0:
                try:
                    storage.ping().send(None)
                except StorageClosed:
                    os._exit(7)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    run(main())


# Transactions and tasks


def test_another_task_is_not_concerned(open_one: Open) -> None:
    async def main() -> None:
        async with open_one(threads=2) as storage:
            inside = asyncio.Event()

            async def undone() -> None:
                with suppress(Undo):
                    async with storage.transaction() as tx:
                        await tx.nonces.register("in tx")
                        inside.set()
                        await turns(100)
                        assert await tx.nonces.seen("in tx")
                        raise Undo

            async def write() -> None:
                await inside.wait()
                await storage.nonces.register("other")

            await asyncio.gather(undone(), write())
            seen = [await storage.nonces.seen(nonce) for nonce in ("in tx", "other")]
            assert seen == [False, True]

    run(main())


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_the_outer_storage_is_refused_inside(open_one: Open) -> None:
    async def main() -> None:
        async with open_one(threads=1) as storage:
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: storage.nonces.register("refused"),
                lambda: storage.queue.schedule("x", "a"),
                lambda: storage.idempotency.put("refused", [0] * 300),
                lambda: storage.sessions.update("refused", lambda _: 1),
                lambda: storage.idempotency.run_once("refused", turns_once),
                lambda: storage.queue.wait(10),
                lambda: storage.bind(object()),  # type: ignore[arg-type]
                lambda: storage.transaction().__aenter__(),
                storage.ping,
                storage.prune,
                storage.maintain,
                storage.migrate,
            ]

            async def turns_once() -> int:
                return 1

            async def refused(call: Callable[[], Awaitable[Any]]) -> None:
                with pytest.raises(TransactionOpen):
                    await call()

            async with storage.transaction() as tx:
                for call in calls:
                    await refused(call)
                await asyncio.gather(*map(refused, calls))
                with pytest.raises(TransactionOpen):
                    await asyncio.to_thread(storage._storage.nonces.register, "refused")
                await tx.nonces.register("accepted")
            assert await storage.nonces.seen("accepted")
            assert not await storage.nonces.seen("refused")
            assert await storage.sessions.get("refused") is None

    run(main())


def test_a_task_that_was_started_inside_may_go_on_after_the_block(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage:
            ended = asyncio.Event()

            async def work() -> bool:
                await ended.wait()
                return await storage.nonces.register("after")

            async with storage.transaction() as tx:
                await tx.nonces.register("inside")
                late = asyncio.create_task(work())
            ended.set()
            assert await late

    run(main())


def test_a_block_may_be_left_by_another_task(open_one: Open) -> None:
    """As a fixture of a test framework does; the task that entered it is inside until then."""

    async def main() -> None:
        async with open_one() as storage:
            block = storage.transaction()
            tx = await block.__aenter__()
            await tx.nonces.register("a")
            await asyncio.create_task(block.__aexit__(None, None, None))
            assert await storage.nonces.seen("a")

    run(main())


def test_a_block_is_entered_once(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage:
            block = storage.transaction()
            with pytest.raises(StorageClosed):
                await block.__aexit__(None, None, None)
            async with block as tx:
                await tx.nonces.register("a")
                with pytest.raises(StorageClosed):
                    await block.__aenter__()
            with pytest.raises(StorageClosed):
                await block.__aenter__()
            assert await storage.nonces.seen("a")

    run(main())


def test_a_transaction_is_never_starved(open_one: Open) -> None:
    """All threads wait for what it holds, and it goes on."""

    async def main() -> None:
        async with open_one(threads=2) as storage:
            async with storage.transaction() as tx:
                await tx.sessions.put("user", 1)
                others = [asyncio.create_task(in_no_transaction(storage)) for _ in range(8)]
                await turns(20)
                for number in range(5):
                    await tx.sessions.put("user", number)
            assert {session.data for session in await asyncio.gather(*others)} == {"other"}

    async def in_no_transaction(storage: AsyncStorage) -> Any:
        return await contextvars.Context().run(asyncio.create_task, storage.sessions.put("user", "other"))

    run(main())


def test_calls_on_a_transaction_wait_their_turn(open_one: Open) -> None:
    async def main() -> None:
        async with open_one(threads=2) as storage:
            async with storage.transaction() as tx:
                await asyncio.gather(*(tx.nonces.register(f"n{number}") for number in range(20)))
                await asyncio.gather(
                    *(tx.sessions.update("user", lambda n: n + 1, default=0) for _ in range(20))
                )
            session = await storage.sessions.get("user")
            assert session is not None
            assert session.data == 20

    run(main())


def test_many_transactions_at_once(open_one: Open) -> None:
    async def main() -> None:
        async with open_one(threads=2) as storage:

            async def transact(number: int) -> None:
                with suppress(Undo):
                    async with storage.transaction() as tx:
                        await tx.nonces.register(f"n{number}")
                        await tx.events.append("e", number)
                        if number % 3 == 0:
                            raise Undo

            await asyncio.gather(*(transact(number) for number in range(30)))
            kept = [number for number in range(30) if number % 3]
            assert sorted(event.payload for event in await storage.events.read_after(0)) == kept
            assert [n for n in range(30) if await storage.nonces.seen(f"n{n}")] == kept

    run(main())


def test_a_pool_thread_is_left_unmarked(open_one: Open) -> None:
    async def main() -> None:
        async with open_one(threads=1) as storage:
            for number in range(5):
                with suppress(Undo):
                    async with storage.transaction() as tx:
                        await tx.nonces.register(f"undone-{number}")
                        raise Undo
                await storage.nonces.register(f"kept-{number}")
            assert [await storage.nonces.seen(f"kept-{number}") for number in range(5)] == [True] * 5
            assert [await storage.nonces.seen(f"undone-{number}") for number in range(5)] == [False] * 5

    run(main())


def test_a_nested_one(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage, storage.transaction() as tx:
            with suppress(Undo):
                async with tx.transaction() as nested:
                    await asyncio.gather(nested.nonces.register("a"), nested.nonces.register("b"))
                    with pytest.raises(TransactionOpen):
                        await tx.nonces.seen("a")
                    with pytest.raises(TransactionOpen):
                        await asyncio.create_task(tx.nonces.register("refused"))
                    with pytest.raises(TransactionOpen):
                        await storage.nonces.seen("a")
                    raise Undo
            async with tx.transaction() as nested:
                await nested.nonces.register("kept")
            await tx.nonces.register("other")
            seen = [await tx.nonces.seen(nonce) for nonce in ("a", "b", "refused", "kept", "other")]
            assert seen == [False, False, False, True, True]

    run(main())


def test_an_ended_one_is_closed(open_one: Open) -> None:
    async def main() -> None:
        async with open_one() as storage:
            async with storage.transaction() as tx:
                async with tx.transaction() as nested:
                    assert await nested.queue.wait(0.001) is False
                assert await tx.queue.wait(0.001) is False
                with pytest.raises(StorageClosed):
                    await nested.ping()
            for ended in (tx, nested):
                with pytest.raises(StorageClosed):
                    await ended.nonces.seen("a")
                with pytest.raises(StorageClosed):
                    await ended.queue.wait(1)
                with pytest.raises(StorageClosed):
                    async with ended.transaction():
                        pass

    run(main())


def test_two_facades_over_one_engine(make_backend: Callable[[int], StorageBackend]) -> None:
    async def main() -> None:
        backend = make_backend(4)
        one, two = (AsyncStorage(Storage(backend, auto_prune=False), threads=2) for _ in range(2))
        inside = asyncio.Event()

        async def undone() -> None:
            with suppress(Undo):
                async with one.transaction() as tx:
                    await tx.nonces.register("undone")
                    inside.set()
                    with pytest.raises(TransactionOpen):
                        await two.nonces.register("refused")
                    await turns(50)
                    raise Undo

        async def write() -> None:
            await inside.wait()
            await two.nonces.register("kept")

        await asyncio.gather(undone(), write())
        assert await one.nonces.seen("kept")
        assert not await two.nonces.seen("undone")
        await one.close()

    run(main())


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_bound_to_a_connection(open_one: Open, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_one() as storage:
            connection = sqlite3.connect(tmp_path / "async.db", check_same_thread=False)
            bound = await storage.bind(connection)
            await bound.nonces.register("undone")
            with suppress(Undo):
                async with bound.transaction() as nested:
                    await nested.nonces.register("nested")
                    raise Undo
            assert not await bound.nonces.seen("nested")
            connection.rollback()
            await bound.nonces.register("kept")
            await bound.close()
            connection.commit()
            connection.close()
            assert [await storage.nonces.seen(nonce) for nonce in ("undone", "kept")] == [False, True]

    run(main())
