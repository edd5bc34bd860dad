"""Connections of async APIs, for `AsyncStorage.bind`: how to get at the driver, and where the calls run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import InvalidValue, StorageClosed
from ..frameworks import (
    CallersConnection,
    Library,
    full_name,
    is_async_driver,
    is_async_sqlalchemy,
    is_django,
    is_of,
    sqlalchemy_errors,
    transaction_check,
)
from .threads import Threads, in_context, to_the_end

T = TypeVar("T")


async def find_async_connection(
    connection: Any, threads: Threads
) -> tuple[CallersConnection, Threads] | None:
    """Return the connection of an object of an async API, and where calls on it run.

    `threads` are those of the storage. None: it is no such object. A transaction of SQLAlchemy that has not
    begun begins. Raises InvalidValue for what cannot be bound to an AsyncStorage.
    """
    owner = full_name(type(connection))
    if is_of(connection, "sqlalchemy.ext.asyncio", "AsyncConnection"):
        with sqlalchemy_errors(owner):
            return _in_driver(await _of_sqlalchemy(connection, owner), threads)
    if is_async_sqlalchemy(connection):
        with sqlalchemy_errors(owner):
            callers = await _of_sqlalchemy(await connection.connection(), owner)
            callers, threads = _in_driver(callers, threads)
            return callers, SessionThreads(connection, callers, threads)
    if is_async_driver(connection):
        library: Library = "psycopg" if is_of(connection, "psycopg", "AsyncConnection") else "aiosqlite"
        return _in_driver(CallersConnection(connection, owner, library), threads)
    if is_django(connection):
        raise InvalidValue(
            "Django's transactions are synchronous: with sync_to_async, run a function that enters "
            "`transaction.atomic()` and binds `django.db.connection` to a Storage (open_storage)"
        )
    return None


async def _of_sqlalchemy(connection: Any, owner: str) -> CallersConnection:
    if not connection.in_transaction():
        # As its own first statement would. A later `commit` does nothing unless SQLAlchemy has begun.
        await connection.begin()
    driver = (await connection.get_raw_connection()).driver_connection
    check = transaction_check(connection.sync_connection, owner)
    return CallersConnection(driver, owner, "SQLAlchemy", check)


def _in_driver(callers: CallersConnection, threads: Threads) -> tuple[CallersConnection, Threads]:
    driver = callers.driver
    if is_of(driver, "psycopg", "AsyncConnection"):
        return replace(callers, in_thread=True), PsycopgThreads(driver, threads)
    if is_of(driver, "aiosqlite", "Connection"):
        try:
            raw = driver._conn
        except ValueError as error:
            raise InvalidValue(
                "connection must be open: `async with aiosqlite.connect(…) as connection:`"
            ) from error
        return replace(callers, driver=raw, in_thread=True), AiosqliteThread(driver)
    return callers, threads


class SessionThreads:
    """Where calls on the connection of an AsyncSession of SQLAlchemy run."""

    def __init__(self, session: Any, callers: CallersConnection, threads: Threads) -> None:
        self._session = session
        self._callers = callers
        self._threads = threads
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def are_usable(self) -> bool:
        """See `Threads`."""
        return self._threads.are_usable

    def submit(self, call: Callable[[], T], *, in_transaction: bool = False) -> asyncio.Future[T]:
        """See `Threads`."""
        return _kept(self._tasks, self._run(call, in_transaction))

    async def _run(self, call: Callable[[], T], in_transaction: bool) -> T:
        with suppress(StorageClosed):  # the call itself raises it
            self._callers.check()
            # A session sends SAVEPOINT when it first uses the connection after `begin_nested`.
            with sqlalchemy_errors(self._callers.owner):
                await self._session.connection()
        return await self._threads.submit(call, in_transaction=in_transaction)


class PsycopgThreads:
    """The threads of the storage, while nothing else uses this `psycopg.AsyncConnection`.

    A cancellation is raised when the call has ended: until then, the connection must not be used.
    """

    def __init__(self, connection: Any, threads: Threads) -> None:
        self._connection = connection
        self._threads = threads
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def are_usable(self) -> bool:
        """See `Threads`."""
        return self._threads.are_usable

    def submit(self, call: Callable[[], T], *, in_transaction: bool = False) -> asyncio.Future[T]:  # noqa: ARG002
        """See `Threads`."""
        return _kept(self._tasks, self._run(call))

    async def _run(self, call: Callable[[], T]) -> T:
        async with self._connection.lock:
            return await to_the_end(self._threads.submit(call, in_transaction=True))


class AiosqliteThread:
    """The thread of an `aiosqlite.Connection`, which makes all calls on it in their order."""

    are_usable = True

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._tasks: set[asyncio.Task[Any]] = set()

    def submit(self, call: Callable[[], T], *, in_transaction: bool = False) -> asyncio.Future[T]:  # noqa: ARG002
        """See `Threads`."""
        return _kept(self._tasks, self._run(in_context(call)))

    async def _run(self, call: Callable[[], T]) -> T:
        has_begun = False

        def begin() -> T:
            nonlocal has_begun
            has_begun = True
            return call()

        try:
            # The library has no public way to run a function in its thread.
            result: T = await self._connection._execute(begin)
        except ValueError as error:
            if has_begun:
                raise
            raise StorageClosed("the aiosqlite connection is closed") from error
        return result


def _kept(tasks: set[asyncio.Task[Any]], call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task, and keep it until it has ended: the event loop itself may forget it."""
    task = asyncio.get_running_loop().create_task(call)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
