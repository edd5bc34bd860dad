"""Connections are lent, replaced, and given back to the server, without a thread but to connect."""

from __future__ import annotations

import _thread
import dis
import gc
import inspect
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import pytest

from assistly.storage.engines.postgres import PostgresBackend
from assistly.storage.engines.postgres.connections import PooledConnection, ServerIsFull, connect
from assistly.storage.engines.postgres.conninfo import Target
from assistly.storage.engines.postgres.database import PostgresDatabase
from assistly.storage.engines.postgres.pool import Pool
from assistly.storage.errors import StorageClosed, StorageUnavailable
from assistly.storage.storage import Storage
from assistly.storage.testing.forking import needs_fork
from waiting import until

PATIENCE = 30.0
# No signal handler runs before this instruction, the first one after an exception.
HANDLER = dis.opmap["PUSH_EXC_INFO"]
ENGINE = f"{Path(inspect.getfile(Pool)).parent}{os.sep}"


@pytest.fixture
def open_one(database_url: str) -> Iterator[Callable[[], PooledConnection]]:
    opened: list[psycopg.Connection[Any]] = []

    def connect_once() -> PooledConnection:
        connection = connect(Target.parse(database_url), prepare_threshold=2, fast_path=None)
        opened.append(connection.connection)
        return connection

    yield connect_once
    for connection in opened:
        connection.close()


@pytest.fixture
def pool(open_one: Callable[[], PooledConnection]) -> Iterator[Pool]:
    with closing(Pool(open_one, 2, "the server")) as pool:
        yield pool


def process_of(connection: PooledConnection) -> int:
    return connection.connection.info.backend_pid


def end_session(url: str, process: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", [process])


def session(storage: Storage) -> int:
    database: Any = storage._context.backend._database  # type: ignore[attr-defined]
    pid: int = database.read(lambda executor: executor.row("SELECT pg_backend_pid()"))[0]
    return pid


def test_the_one_given_back_last_is_lent_first(pool: Pool) -> None:
    first, second = pool.take(), pool.take()
    pool.give_back(first)
    pool.give_back(second)
    assert pool.take() is second
    assert pool.take() is first


def test_one_caller_stays_on_one_connection(postgres: Storage) -> None:
    assert len({session(postgres) for _ in range(5)}) == 1


def test_callers_share_the_connections_that_there_are(open_postgres: Callable[..., Storage]) -> None:
    storage = open_postgres(pool_size=2)
    callers = 8
    start = threading.Barrier(callers)

    def call(_: int) -> set[int]:
        start.wait(PATIENCE)
        return {session(storage) for _ in range(50)}

    with ThreadPoolExecutor(callers) as threads:
        sessions = set().union(*threads.map(call, range(callers)))
    assert len(sessions) <= 2


def test_callers_in_line_are_served_in_turn(pool: Pool) -> None:
    lent = [pool.take(), pool.take()]
    order: list[int] = []

    def wait(number: int) -> None:
        connection = pool.take(PATIENCE)
        order.append(number)
        pool.give_back(connection)

    with ThreadPoolExecutor(3) as threads:
        for number in range(3):
            threads.submit(wait, number)
            until(lambda number=number: pool.waiting == number + 1)  # type: ignore[misc]
        pool.give_back(lent.pop())
        until(lambda: len(order) == 3)
    assert order == [0, 1, 2]


def test_nobody_waits_beyond_the_limit(pool: Pool) -> None:
    lent = [pool.take(), pool.take()]
    with pytest.raises(StorageUnavailable, match="all 2 connections"):
        pool.take(0.01)
    assert pool.waiting == 0
    pool.give_back(lent.pop())
    assert pool.take(0.01)


def test_a_connection_that_broke_leaves_its_place_to_the_first_in_line(pool: Pool, database_url: str) -> None:
    lent = [pool.take(), pool.take()]
    with ThreadPoolExecutor(1) as threads:
        waiter = threads.submit(pool.take, PATIENCE)
        until(lambda: pool.waiting)
        lent[0].connection.close()
        pool.give_back(lent[0])
        assert waiter.result(PATIENCE).connection.execute("SELECT 1").fetchone() == (1,)


def test_one_that_was_left_in_a_transaction_is_closed(pool: Pool) -> None:
    connection = pool.take()
    connection.executor.command("BEGIN")
    pool.give_back(connection)
    assert connection.connection.closed
    assert pool.take() is not connection


def test_a_session_that_ended_while_it_was_idle_is_replaced_and_so_are_its_siblings(
    pool: Pool, database_url: str
) -> None:
    first, second = pool.take(), pool.take()
    pool.give_back(first)
    pool.give_back(second)
    end_session(database_url, process_of(second))
    third = pool.take()
    assert third not in (first, second)
    assert first.connection.closed


def test_siblings_in_use_are_closed_when_they_come_back(pool: Pool) -> None:
    old = pool.take()
    pool.close_idle()
    pool.give_back(old)
    assert old.connection.closed
    new = pool.take()
    pool.give_back(new)
    assert pool.take() is new


def test_an_attempt_that_fails_takes_no_place(
    open_one: Callable[[], PooledConnection],
) -> None:
    problems: list[Exception] = [StorageUnavailable("down"), OSError("no such thing")]

    def attempt() -> PooledConnection:
        if problems:
            raise problems.pop()
        return open_one()

    with closing(Pool(attempt, 1, "the server")) as pool:
        with pytest.raises(StorageUnavailable, match="cannot connect to the server") as caught:
            pool.take()
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(StorageUnavailable, match="down"):
            pool.take()
        assert pool.take()


def test_an_attempt_that_takes_too_long_is_kept_for_the_next_caller(
    open_one: Callable[[], PooledConnection],
) -> None:
    may_connect = threading.Event()

    def slowly() -> PooledConnection:
        assert may_connect.wait(PATIENCE)
        return open_one()

    with closing(Pool(slowly, 1, "the server")) as pool:
        with pytest.raises(StorageUnavailable, match="no connection to the server"):
            pool.take(0.01)
        with ThreadPoolExecutor(1) as threads:
            waiter = threads.submit(pool.take, PATIENCE)
            until(lambda: pool.waiting)
            may_connect.set()
            assert waiter.result(PATIENCE)


def test_an_attempt_that_fails_too_late_frees_its_place(
    open_one: Callable[[], PooledConnection],
) -> None:
    may_fail = threading.Event()
    attempts: list[None] = []

    def late() -> PooledConnection:
        attempts.append(None)
        if len(attempts) > 1:
            return open_one()
        assert may_fail.wait(PATIENCE)
        raise StorageUnavailable("down")

    with closing(Pool(late, 1, "the server")) as pool, ThreadPoolExecutor(1) as threads:
        with pytest.raises(StorageUnavailable, match="no connection"):
            pool.take(0.01)
        waiter = threads.submit(pool.take, PATIENCE)
        until(lambda: pool.waiting)
        may_fail.set()
        assert waiter.result(PATIENCE)


def test_without_a_thread_the_caller_connects(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert pool.take().is_alive


def test_closing_closes_idle_connections_and_those_in_use_when_they_come_back(pool: Pool) -> None:
    idle, in_use = pool.take(), pool.take()
    pool.give_back(idle)
    pool.close()
    assert idle.connection.closed
    assert not in_use.connection.closed
    pool.give_back(in_use)
    assert in_use.connection.closed
    with pytest.raises(StorageClosed):
        pool.take()


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Also where the tests were started to ignore SIGINT, as with `nohup … &`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_caller_leaves_the_line(pool: Pool) -> None:
    lent = [pool.take(), pool.take()]

    def interrupt() -> None:
        until(lambda: pool.waiting)
        # Not interrupt_main, which does not wake the thread.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        pool.take(PATIENCE)
    thread.join()
    assert pool.waiting == 0
    pool.give_back(lent[0])
    assert pool.take() is lent[0]


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_attempt_is_kept_for_the_next_caller(
    open_one: Callable[[], PooledConnection],
) -> None:
    may_connect = threading.Event()

    def interrupting() -> PooledConnection:
        if not may_connect.is_set():
            _thread.interrupt_main()
            assert may_connect.wait(PATIENCE)
        return open_one()

    with closing(Pool(interrupting, 1, "the server")) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.take(PATIENCE)
        may_connect.set()
        assert pool.take(PATIENCE)


def test_a_connection_that_was_dropped_leaves_its_place(pool: Pool) -> None:
    """As after an exception between two steps of the caller: Ctrl-C, or a task queue's time limit."""
    lent = [pool.take(), pool.take()]
    raw = lent[0].connection
    del lent[0]
    gc.collect()
    assert raw.closed
    assert pool.take(0.1)


def test_a_connection_that_was_dropped_leaves_its_place_to_the_first_in_line(pool: Pool) -> None:
    lent = [pool.take(), pool.take()]
    with ThreadPoolExecutor(1) as threads:
        waiter = threads.submit(pool.take, PATIENCE)
        until(lambda: pool.waiting)
        del lent[0]
        gc.collect()
        assert waiter.result(PATIENCE)


class Interrupt(BaseException):
    pass


def interrupt(call: Callable[[], object], step: int) -> bool:
    """Raise before the given instruction of the engine; return whether the call got that far."""
    left = step
    was_raised = False

    def trace(frame: FrameType, _: str, __: object) -> Any:
        if not frame.f_code.co_filename.startswith(ENGINE):
            return None
        frame.f_trace_opcodes = True
        return trace_one

    def trace_one(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left, was_raised
        if event == "opcode" and frame.f_code.co_code[frame.f_lasti] != HANDLER:
            left -= 1
            if left == 0:
                was_raised = True
                raise Interrupt
        return trace_one

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        pass
    finally:
        sys.settrace(before)
    return was_raised


def read(database: PostgresDatabase) -> None:
    database.read(lambda executor: executor.row("SELECT 1"))


def in_transaction(database: PostgresDatabase) -> None:
    with database.transaction() as transaction:
        transaction.select("SELECT 1", {})


@pytest.mark.parametrize(("call", "is_new"), [(read, False), (read, True), (in_transaction, False)])
def test_an_exception_at_any_step_takes_no_place(
    open_postgres: Callable[..., Storage], call: Callable[[PostgresDatabase], None], is_new: bool
) -> None:
    database: Any = open_postgres(pool_size=1)._context.backend._database  # type: ignore[attr-defined]
    call(database)
    pool: Pool = database._pool
    for step in itertools.count(1):
        if is_new:
            pool.close_idle()
        if not interrupt(lambda: call(database), step):
            break
        pool.give_back(pool.take(PATIENCE))
    assert step > 100


def test_a_session_that_takes_no_writes_any_more_is_replaced(postgres: Storage) -> None:
    """As after a failover."""
    database: Any = postgres._context.backend._database  # type: ignore[attr-defined]
    database.read(lambda executor: executor.command("SET default_transaction_read_only = on"))
    before = session(postgres)
    assert postgres.nonces.register("nonce")
    assert session(postgres) != before


def test_closing_ends_the_line(pool: Pool) -> None:
    lent = [pool.take(), pool.take()]
    with ThreadPoolExecutor(1) as threads:
        waiter = threads.submit(pool.take, PATIENCE)
        until(lambda: pool.waiting)
        pool.close()
        with pytest.raises(StorageClosed):
            waiter.result(PATIENCE)
    for connection in lent:
        pool.give_back(connection)


def test_nothing_is_left_behind_in_the_process(postgres: Storage) -> None:
    before = set(threading.enumerate())
    postgres.nonces.register("nonce")
    with postgres.transaction() as tx:
        tx.nonces.register("another")
    until(lambda: not {thread for thread in set(threading.enumerate()) - before if thread.is_alive()})
    assert logging.getLogger("psycopg.pool").handlers == []


def test_a_forgotten_storage_gives_its_connections_back(
    database_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a warning, which the tests would take for an error."""
    storage = Storage(PostgresBackend(database_url, schema=schema), auto_prune=False)
    storage.queue.wait(0)
    process = session(storage)
    del storage
    gc.collect()
    query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    with psycopg.connect(database_url, autocommit=True) as connection:
        until(lambda: connection.execute(query, [process]).fetchone() is None)
    until(lambda: "assistly-wake-ups" not in {thread.name for thread in threading.enumerate()})


_FORGETFUL = """
import sys
from assistly.storage import PostgresBackend, Storage
storage = Storage(PostgresBackend(sys.argv[1], schema=sys.argv[2]))
storage.queue.schedule_many([])
storage.queue.schedule("x", "one")
storage.queue.schedule("x", "two")
storage.queue.wait(0)
"""


def test_a_program_that_forgets_to_close_ends_at_once_and_in_silence(database_url: str, schema: str) -> None:
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", _FORGETFUL, database_url, schema],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert time.monotonic() - began < PATIENCE / 2


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_leaves_the_idle_connection_to_its_parent(postgres: Storage) -> None:
    used = session(postgres)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(session(postgres)).encode())
            gc.collect()
            postgres.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 100)) != used
    assert session(postgres) == used


def test_an_attempt_that_failed_is_over(open_one: Callable[[], PooledConnection]) -> None:
    """Later callers are told what they wait for, although the error, and with it the attempt, lives on."""
    problems: list[Exception] = [StorageUnavailable("down"), OSError("no such thing")]

    def attempt() -> PooledConnection:
        if problems:
            raise problems.pop()
        return open_one()

    with closing(Pool(attempt, 1, "the server")) as pool:
        kept = []
        for _ in range(2):
            with pytest.raises(StorageUnavailable) as caught:
                pool.take()
            kept.append(caught.value)
        lent = pool.take()
        with pytest.raises(StorageUnavailable, match="all 1 connections"):
            pool.take(0.01)
        pool.give_back(lent)


def test_room_is_made_where_no_connection_can_come_back(open_one: Callable[[], PooledConnection]) -> None:
    is_full = False
    attempts: list[None] = []
    made: list[None] = []

    def attempt() -> PooledConnection:
        attempts.append(None)
        if is_full:
            raise ServerIsFull("too many connections")
        return open_one()

    with closing(Pool(attempt, 2, "the server", make_room=lambda: made.append(None))) as pool:
        lent = pool.take()
        is_full = True
        with pytest.raises(StorageUnavailable, match="too many connections"):
            pool.take(0.3)
        assert len(attempts) > 2
        assert made == []
        lent.connection.close()
        pool.give_back(lent)
        until(lambda: pool._connects_at < time.monotonic())
        with pytest.raises(StorageUnavailable, match="too many connections"):
            pool.take(0.01)
        assert made == [None]
