"""Explicit transactions: whose calls are part of one, how it ends, and what is left behind.

The suite in `assistly.storage.testing` checks what any engine can show; here are the ways out that
need a look inside, processes, or an event loop.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest

from assistly.storage import (
    MemoryBackend,
    Storage,
    StorageBackend,
    StorageClosed,
    StorageUnavailable,
    TransactionOpen,
    transactions,
)
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.testing.forking import needs_fork
from assistly.storage.transactions import Guard, Transaction, is_any_open, opened_by
from waiting import until

PATIENCE = 30


class Undo(Exception):
    """Raised on purpose."""


@pytest.fixture
def backend(make_backend: Callable[[int], StorageBackend]) -> StorageBackend:
    return make_backend(4)


@pytest.fixture
def storage(backend: StorageBackend) -> Iterator[Storage]:
    storage = Storage(backend, auto_prune=False)
    storage.ping()
    yield storage
    storage.close()


@pytest.fixture
def memory() -> Iterator[Storage]:
    storage = Storage(MemoryBackend(), auto_prune=False)
    yield storage
    storage.close()


@contextmanager
def pools(count: int) -> Iterator[list[ThreadPoolExecutor]]:
    with ExitStack() as stack:
        yield [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(count)]


def leave(block: Transaction[Storage], error: BaseException | None = None) -> None:
    block.__exit__(type(error) if error else None, error, None)


# Who is inside


def test_asyncio_inside_a_block(storage: Storage) -> None:
    async def refused() -> None:
        with pytest.raises(TransactionOpen):
            storage.nonces.register("refused")

    async def main() -> None:
        with storage.transaction() as tx:
            await asyncio.gather(refused(), refused())
            await asyncio.create_task(refused())
            with pytest.raises(TransactionOpen):
                await asyncio.to_thread(storage.nonces.register, "refused")
            assert await asyncio.to_thread(tx.nonces.register, "accepted")
        assert await asyncio.to_thread(storage.nonces.seen, "accepted")

    asyncio.run(main())
    assert not storage.nonces.seen("refused")


def test_a_task_that_began_before_is_not_inside(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistly.storage.engine.keyvalue.backend.LOCK_SECONDS", 0.01)

    async def main() -> None:
        inside, done = asyncio.Event(), asyncio.Event()

        async def stranger() -> None:
            await inside.wait()
            with pytest.raises(StorageUnavailable):  # and not TransactionOpen: it waits as a thread would
                memory.nonces.register("a")
            done.set()

        task = asyncio.create_task(stranger())
        await asyncio.sleep(0)
        with memory.transaction():
            inside.set()
            await done.wait()
        await task

    asyncio.run(main())


def test_a_second_storage_over_one_engine_is_refused_too(storage: Storage, backend: StorageBackend) -> None:
    other = Storage(backend, auto_prune=False)
    with storage.transaction() as tx:
        with pytest.raises(TransactionOpen):
            other.nonces.register("a")
        with pytest.raises(TransactionOpen):
            other.transaction()
        tx.nonces.register("b")
    assert other.nonces.seen("b")


def test_another_engine_is_not_concerned(storage: Storage, memory: Storage) -> None:
    with storage.transaction() as tx, memory.transaction() as other:
        tx.nonces.register("a")
        other.nonces.register("b")
    assert storage.nonces.seen("a")
    assert memory.nonces.seen("b")


def test_blocks_that_were_made_outside_are_not_entered_inside_each_other(storage: Storage) -> None:
    first, second = storage.transaction(), storage.transaction()
    with first as tx:
        with pytest.raises(TransactionOpen):
            second.begin()
        tx.nonces.register("a")
    assert storage.nonces.register("b")


def test_a_block_of_a_generator_may_be_left_elsewhere(storage: Storage) -> None:
    """What web frameworks make of a dependency with `yield`: each step on some thread."""

    def dependency() -> Iterator[Storage]:
        with storage.transaction() as tx:
            yield tx

    with pools(3) as (one, two, three):
        for number, error in enumerate([None, Undo("on purpose")]):
            steps = contextmanager(dependency)()
            tx = one.submit(steps.__enter__).result(PATIENCE)
            assert two.submit(tx.nonces.register, f"n{number}").result(PATIENCE)
            leaving = three.submit(steps.__exit__, type(error) if error else None, error, None)
            assert leaving.result(PATIENCE) in (None, False)
        seen = [one.submit(storage.nonces.seen, nonce).result(PATIENCE) for nonce in ("n0", "n1")]
    assert seen == [True, False]


@pytest.mark.parametrize("error", [GeneratorExit, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_any_exception_undoes_it(storage: Storage, error: type[BaseException]) -> None:
    with pytest.raises(error), storage.transaction() as tx:
        tx.nonces.register("a")
        raise error
    assert storage.nonces.register("a") is True


def test_a_generator_that_is_dropped_undoes_it(storage: Storage) -> None:
    def dependency() -> Iterator[Storage]:
        with storage.transaction() as tx:
            yield tx

    steps = dependency()
    assert next(steps).nonces.register("a")
    del steps
    gc.collect()
    assert storage.nonces.register("a") is True


def test_a_block_that_was_entered_and_dropped_is_not_open(storage: Storage) -> None:
    storage.transaction().__enter__().nonces.register("a")
    gc.collect()
    assert storage.nonces.register("a") is True
    assert not opened_by(storage)


# Entering and leaving


def test_a_block_that_was_never_entered(storage: Storage) -> None:
    block = storage.transaction()
    with pytest.raises(StorageClosed):
        leave(block)
    leave(block, Undo())
    del block
    assert storage.nonces.register("a") is True


def test_a_block_that_is_left_twice(storage: Storage) -> None:
    block = storage.transaction()
    tx = block.__enter__()
    tx.nonces.register("a")
    leave(block)
    with pytest.raises(StorageClosed):
        leave(block)
    leave(block, Undo())
    assert storage.nonces.seen("a")


def test_a_block_that_is_left_by_two_threads_at_once(memory: Storage) -> None:
    ends: list[str] = []
    with pools(2) as both:
        for _ in range(50):
            block = memory.transaction()
            block.begin().nonces.register("a")
            barrier = threading.Barrier(2)

            def end(block: Any = block, barrier: Any = barrier) -> None:
                barrier.wait(PATIENCE)
                block.end(None)

            for future in [pool.submit(end) for pool in both]:
                with suppress(StorageClosed):
                    future.result(PATIENCE)
                    ends.append("committed")
    assert len(ends) == 50


def test_an_interrupt_on_the_way_in_undoes_it(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "mark", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught, storage.transaction():
            pytest.fail("the block must not begin")
    assert storage.nonces.register("a") is True
    assert not opened_by(storage)
    assert caught.tb is not None, "the traceback, which keeps the frames alive, was there until here"


def test_the_transaction_of_an_ended_block(storage: Storage) -> None:
    with storage.transaction() as tx, tx.transaction() as nested:
        pass
    for ended in (tx, nested):
        for call in (lambda: ended.nonces.seen("a"), ended.ping, ended.prune, ended.transaction().begin):  # noqa: B023
            with pytest.raises(StorageClosed):
                call()


class _Breaking:
    """A backend whose transactions break."""

    def __init__(self, backend: StorageBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self._transaction = backend.transaction
        self.breaks_at: str | None = None
        monkeypatch.setattr(backend, "transaction", self.transaction)

    @contextmanager
    def transaction(self) -> Iterator[StorageBackend]:
        if self.breaks_at == "begin":
            raise StorageUnavailable("no connection")
        with self._transaction() as backend:
            yield backend
            if self.breaks_at == "commit":
                raise StorageUnavailable("the disk is full")


@pytest.mark.parametrize("where", ["begin", "commit"])
def test_an_error_at_begin_or_commit_leaves_nothing_locked(
    storage: Storage, backend: StorageBackend, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    breaking = _Breaking(backend, monkeypatch)
    breaking.breaks_at = where
    with pytest.raises(StorageUnavailable), storage.transaction() as tx:
        tx.nonces.register("a")
    breaking.breaks_at = None
    assert not opened_by(storage)
    assert storage.nonces.register("a") is True
    with storage.transaction() as tx:
        assert tx.nonces.register("b")


@pytest.mark.parametrize("where", ["begin", "commit"])
def test_an_error_of_a_nested_one_lets_the_outer_one_go_on(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with storage.transaction() as tx:
        breaking = _Breaking(tx._backend, monkeypatch)
        breaking.breaks_at = where
        with pytest.raises(StorageUnavailable), tx.transaction() as nested:
            nested.nonces.register("a")
        breaking.breaks_at = None
        assert tx.nonces.register("a") is True
    assert storage.nonces.seen("a")


# Closing


def test_closing_inside_undoes_it(storage: Storage, make_backend: Callable[[int], StorageBackend]) -> None:
    with pytest.raises(StorageClosed, match="the storage was closed"), storage.transaction() as tx:
        tx.nonces.register("a")
        storage.close()
        with pytest.raises(StorageClosed, match="the storage was closed"):
            tx.nonces.register("b")
    with pytest.raises(StorageClosed, match="open a new one"):
        storage.nonces.seen("a")


@pytest.mark.parametrize("engine", ["sqlite", "postgres"], indirect=True)
def test_nothing_of_a_closed_one_was_stored(
    storage: Storage, make_backend: Callable[[int], StorageBackend]
) -> None:
    with pytest.raises(StorageClosed), storage.transaction() as tx:
        tx.nonces.register("a")
        storage.close()
    with Storage(make_backend(1), auto_prune=False) as other:
        assert not other.nonces.seen("a")


def test_an_exception_inside_a_closed_one_comes_out(storage: Storage) -> None:
    with pytest.raises(Undo), storage.transaction():
        storage.close()
        raise Undo


def test_closing_from_another_thread_undoes_it(storage: Storage) -> None:
    with pools(1) as (other,), pytest.raises(StorageClosed), storage.transaction() as tx:
        tx.nonces.register("a")
        with tx.transaction() as nested:
            nested.nonces.register("b")
            other.submit(storage.close).result(PATIENCE)
            with pytest.raises(StorageClosed):
                nested.nonces.seen("a")


def test_closing_a_transaction_undoes_its_nested_one_alone(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.nonces.register("a")
        with pytest.raises(StorageClosed), tx.transaction() as nested:
            nested.nonces.register("b")
            tx.close()
        with pytest.raises(StorageClosed):
            tx.nonces.seen("a")
    assert (storage.nonces.seen("a"), storage.nonces.seen("b")) == (True, False)


def test_closing_before_the_block_is_entered(storage: Storage) -> None:
    block = storage.transaction()
    storage.close()
    with pytest.raises(StorageClosed):
        block.__enter__()


def test_closing_while_a_block_begins(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    backend: Any = memory._backend
    real = backend.transaction

    @contextmanager
    def slow() -> Iterator[StorageBackend]:
        with real() as inner:
            begun.set()
            assert go_on.wait(PATIENCE)
            yield inner

    monkeypatch.setattr(backend, "transaction", slow)
    with pools(2) as (one, two):
        entering = one.submit(memory.transaction().__enter__)
        assert begun.wait(PATIENCE)
        closing = two.submit(memory.close)
        until(lambda: memory._context.closed)
        closing.result(PATIENCE)
        go_on.set()
        with pytest.raises(StorageClosed):
            entering.result(PATIENCE)


def test_closing_during_a_call_lets_the_end_undo_it(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistly.storage.storage.ABORT_SECONDS", 0.01)
    begun, go_on = threading.Event(), threading.Event()

    def change(_: Any) -> int:
        begun.set()
        assert go_on.wait(PATIENCE)
        return 1

    with pools(1) as (other,), pytest.raises(StorageClosed, match="was closed"), memory.transaction() as tx:
        updating = other.submit(tx.sessions.update, "user", change)
        assert begun.wait(PATIENCE)
        memory.close()
        go_on.set()
        assert updating.result(PATIENCE).data == 1
    assert not opened_by(memory)


def test_an_outer_end_waits_for_a_call_on_the_nested_one(storage: Storage) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def change(_: Any) -> int:
        begun.set()
        assert go_on.wait(PATIENCE)
        return 1

    with pools(2) as (one, two):
        outer = storage.transaction()
        tx = outer.__enter__()
        tx.nonces.register("a")
        block = tx.transaction()
        nested = one.submit(block.__enter__).result(PATIENCE)
        updating = one.submit(nested.sessions.update, "user", change)
        assert begun.wait(PATIENCE)
        leaving = two.submit(leave, outer)
        until(lambda: tx._guard is not None and tx._guard._ended)
        assert not leaving.done()
        go_on.set()
        leaving.result(PATIENCE)
        assert updating.result(PATIENCE).data == 1
        with pytest.raises(StorageClosed, match="around it has ended"):
            leave(block)
    transactions._marks.set(())
    assert storage.nonces.seen("a")
    assert storage.sessions.get("user") is None


def test_closing_during_a_call_on_a_nested_one(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistly.storage.storage.ABORT_SECONDS", 0.01)
    begun, go_on = threading.Event(), threading.Event()

    def change(_: Any) -> int:
        begun.set()
        assert go_on.wait(PATIENCE)
        return 1

    with (
        pools(1) as (other,),
        pytest.raises(StorageClosed, match="was closed"),
        memory.transaction() as tx,
        pytest.raises(StorageClosed, match="was closed"),
        tx.transaction() as nested,
    ):
        updating = other.submit(nested.sessions.update, "user", change)
        assert begun.wait(PATIENCE)
        memory.close()
        go_on.set()
        assert updating.result(PATIENCE).data == 1
    assert not opened_by(memory)


def test_a_function_of_an_operation_may_close_the_storage(memory: Storage) -> None:
    def change(_: Any) -> int:
        memory.close()
        return 1

    with pytest.raises(StorageClosed, match="was closed"), memory.transaction() as tx:
        tx.sessions.update("user", change)
    assert not opened_by(memory)


# What is left behind


def test_nothing_is_kept_alive(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.nonces.register("a")
        trace = weakref.ref(tx)
    del tx
    gc.collect()
    assert trace() is None
    assert transactions._open_marks() == []
    transactions._marks.set(())


def test_the_marks_of_a_thread_do_not_grow(memory: Storage) -> None:
    with pools(2) as (one, two):
        for _ in range(20):
            block = memory.transaction()
            one.submit(block.__enter__).result(PATIENCE)
            two.submit(leave, block).result(PATIENCE)
        assert one.submit(lambda: len(transactions._marks.get())).result(PATIENCE) <= 1
        assert one.submit(memory.nonces.seen, "a").result(PATIENCE) is False


def test_which_transactions_are_open(memory: Storage) -> None:
    root = memory._backend
    assert not is_any_open(root)
    with memory.transaction() as tx:
        assert is_any_open(root)
        (outer,) = opened_by(memory)
        assert outer.is_marked
        assert not is_any_open(root, besides=outer)
        with tx.transaction():
            assert not is_any_open(root, besides=outer)
            assert len(opened_by(tx)) == 1
    assert not is_any_open(root)


# The guard


def test_a_guard_makes_calls_one_at_a_time() -> None:
    guard = Guard("the transaction")
    inside, waiting = threading.Event(), threading.Event()
    order: list[int] = []

    def first() -> None:
        with guard:
            inside.set()
            assert waiting.wait(PATIENCE)
            order.append(1)

    def second() -> None:
        assert inside.wait(PATIENCE)
        waiting.set()
        with guard:
            order.append(2)

    with pools(2) as (one, two):
        futures = [one.submit(first), two.submit(second)]
        for future in futures:
            future.result(PATIENCE)
    assert order == [1, 2]


def test_a_guard_that_ended_refuses_calls() -> None:
    guard = Guard("the transaction")
    assert guard.end("it is over") is True
    assert guard.end("another reason") is True
    with pytest.raises(StorageClosed, match="it is over"), guard:
        pass


# Bound storages


@pytest.fixture
def connect(request: pytest.FixtureRequest, engine: str, tmp_path: Any) -> Callable[[], Any]:
    if engine == "sqlite":
        return lambda: sqlite3.connect(tmp_path / "async.db", check_same_thread=False)
    database_url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("schema")
    return lambda: psycopg.connect(database_url, options=f"-c search_path={schema}")


@pytest.mark.parametrize("engine", ["sqlite", "postgres"], indirect=True)
def test_a_bound_storage(storage: Storage, connect: Callable[[], Any]) -> None:
    connection = connect()
    bound = storage.bind(connection)
    with bound.transaction() as nested:
        nested.nonces.register("kept")
        with pytest.raises(TransactionOpen):
            bound.nonces.seen("kept")
    with suppress(Undo), bound.transaction() as nested:
        nested.nonces.register("undone")
        raise Undo
    assert bound.nonces.seen("kept")
    assert not bound.nonces.seen("undone")
    with pools(1) as (other,):
        assert other.submit(bound.nonces.seen, "kept").result(PATIENCE)
    bound.close()
    with pytest.raises(StorageClosed):
        bound.nonces.seen("kept")
    connection.commit()
    connection.close()
    assert storage.nonces.seen("kept")


# Forks


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("engine", ["memory", "postgres"], indirect=True)
def test_a_child_has_no_part_in_a_transaction_of_its_parent(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.nonces.register("a")
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                code = _in_the_child(tx)
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        tx.nonces.register("b")
    assert storage.nonces.seen("a")
    assert storage.nonces.seen("b")


def _in_the_child(tx: Storage) -> int:
    with pytest.raises(StorageClosed, match="belongs to the process"):
        tx.nonces.register("c")
    with pytest.raises(StorageClosed, match="belongs to the process"):
        tx.transaction().__enter__()
    gc.collect()
    assert transactions._open_marks() == []
    return 7


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("engine", ["memory", "postgres"], indirect=True)
def test_a_child_that_leaves_the_block_ends_nothing(storage: Storage) -> None:
    block = storage.transaction()
    tx = block.__enter__()
    tx.nonces.register("a")
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            leave(block, Undo())
            with pytest.raises(StorageClosed, match="belongs to the process"):
                leave(block)
            del block, tx
            gc.collect()
            code = 7
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    tx.nonces.register("b")
    leave(block)
    assert storage.nonces.seen("a")
    assert storage.nonces.seen("b")


def test_calls_in_a_transaction_are_not_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the engine says of itself: they must not share a statement with calls of others."""
    monkeypatch.setattr(MemoryBackend, "writers", 1)
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        assert storage._context.writers == 1
        with storage.transaction() as tx, tx.transaction() as inner:
            assert (tx._context.writers, inner._context.writers) == (0, 0)
