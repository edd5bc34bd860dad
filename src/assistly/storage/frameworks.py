"""Finds the driver's connection, and the transaction, in an object of SQLAlchemy or Django.

Nothing of these libraries is imported: an object can only be theirs if the program has imported them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from .errors import InvalidValue, StorageClosed, StorageUnavailable

Library = Literal["SQLAlchemy", "Django", "psycopg", "aiosqlite"]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class CallersConnection:
    """A connection that a caller has bound, as an engine gets it."""

    driver: Any
    """The driver's connection."""
    owner: str
    """The class of the object that was bound, for messages."""
    library: Library | None = None
    """Where `driver` comes from. None: the caller has passed the driver's connection itself."""
    check: Callable[[], None] = _nothing
    """Called before each use of the connection. Raises StorageClosed if its transaction has ended."""
    in_thread: bool = False
    """Whether it is the connection of an async driver, used in a thread while the driver does not use it."""

    @property
    def needs_transaction(self) -> bool:
        """Whether a call that would be committed by itself is refused."""
        return self.library in ("SQLAlchemy", "Django")


def find_connection(connection: Any) -> CallersConnection:
    """Return the driver's connection of `connection`, which may be that connection itself.

    A transaction of SQLAlchemy that has not begun begins, so that SQLAlchemy will commit or roll back.
    Raises InvalidValue for objects of async APIs, and for a Django connection outside `atomic()`.
    """
    if isinstance(connection, CallersConnection):
        return connection
    connection = current_session(connection)
    owner = full_name(type(connection))
    if is_async(connection):
        raise InvalidValue(
            f"connection is a {owner}, but this storage is synchronous: "
            "use an AsyncStorage (open_async_storage), and `await storage.bind(connection)`"
        )
    if is_of(connection, "sqlalchemy.orm", "Session"):
        with sqlalchemy_errors(owner):
            return _of_session(connection, owner)
    if is_of(connection, "sqlalchemy.engine", "Connection"):
        with sqlalchemy_errors(owner):
            return _of_sqlalchemy(connection, owner)
    if is_django(connection):
        return _of_django(connection, owner)
    return CallersConnection(connection, owner)


def current_session(connection: Any) -> Any:
    """Return the session that a scoped session of SQLAlchemy has for the calling thread or task."""
    if is_of(connection, "sqlalchemy.orm", "scoped_session"):
        return connection()
    if is_of(connection, "sqlalchemy.ext.asyncio", "async_scoped_session"):
        return connection()
    return connection


def is_of(value: object, module: str, *names: str) -> bool:
    """Whether `value` is an instance of one of these classes. False unless the program has imported them."""
    found = sys.modules.get(module)
    classes = (getattr(found, name, None) for name in names) if found else ()
    return isinstance(value, tuple(each for each in classes if isinstance(each, type)))


def is_async(connection: object) -> bool:
    """Whether the connection is of a library's async API."""
    return is_async_sqlalchemy(connection) or is_async_driver(connection)


def is_async_sqlalchemy(connection: object) -> bool:
    """Whether it is an AsyncSession or an AsyncConnection of SQLAlchemy."""
    return is_of(connection, "sqlalchemy.ext.asyncio", "AsyncSession", "AsyncConnection")


def is_async_driver(connection: object) -> bool:
    """Whether it is a connection of psycopg's async API, or of aiosqlite."""
    return is_of(connection, "psycopg", "AsyncConnection") or is_of(connection, "aiosqlite", "Connection")


def is_django(connection: object) -> bool:
    """Whether it is `django.db.connection`, or one of `django.db.connections`."""
    return is_of(connection, "django.utils.connection", "ConnectionProxy") or is_of(
        connection, "django.db.backends.base.base", "BaseDatabaseWrapper"
    )


def full_name(kind: type[Any]) -> str:
    """The name of a class with its module; with the package that exports it, if there is one."""
    package = kind.__module__.rpartition(".")[0]
    if package and getattr(sys.modules.get(package), kind.__name__, None) is kind:
        return f"{package}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__name__}"


@contextmanager
def sqlalchemy_errors(owner: str) -> Iterator[None]:
    """Convert the errors of SQLAlchemy: StorageUnavailable for database and pool, else InvalidValue."""
    try:
        yield
    except Exception as error:
        if is_of(error, "sqlalchemy.exc", "DBAPIError", "TimeoutError"):
            raise StorageUnavailable(f"the {owner} could not begin: {error}") from error
        if is_of(error, "sqlalchemy.exc", "SQLAlchemyError"):
            raise InvalidValue(f"connection is a {owner} that cannot be used: {error}") from error
        raise


def _of_session(session: Any, owner: str) -> CallersConnection:
    callers = _of_sqlalchemy(session.connection(), owner)

    def check() -> None:
        callers.check()
        # A session sends SAVEPOINT when it first uses the connection after `begin_nested`.
        with sqlalchemy_errors(owner):
            session.connection()

    return replace(callers, check=check)


def _of_sqlalchemy(connection: Any, owner: str) -> CallersConnection:
    if not connection.in_transaction():
        # As its own first statement would. A later `commit` does nothing unless SQLAlchemy has begun.
        connection.begin()
    driver = connection.connection.driver_connection
    return CallersConnection(driver, owner, "SQLAlchemy", transaction_check(connection, owner))


def transaction_check(connection: Any, owner: str) -> Callable[[], None]:
    """Return the check that the transaction, or the savepoint, of an SQLAlchemy Connection is still open."""
    transaction = connection.get_nested_transaction() or connection.get_transaction()

    def check() -> None:
        if not transaction.is_active:
            raise StorageClosed(
                f"the transaction of the {owner} in which the storage was bound has ended: "
                "bind it again in the next one"
            )

    return check


def _of_django(connection: Any, owner: str) -> CallersConnection:
    alias = connection.alias
    # The proxy leads to another connection in each thread: keep the one of this thread.
    wrapper = sys.modules["django.db"].connections[alias]
    if is_of(connection, "django.db.backends.base.base", "BaseDatabaseWrapper"):
        wrapper = connection
    _check_thread(wrapper)
    if not wrapper.in_atomic_block:
        raise InvalidValue(
            f"Django's connection {alias!r} is not in an atomic() block: "
            "bind it inside `with transaction.atomic():`"
        )
    driver = wrapper.connection
    blocks = list(wrapper.atomic_blocks)

    def check() -> None:
        _check_thread(wrapper)
        if wrapper.connection is not driver or wrapper.atomic_blocks[: len(blocks)] != blocks:
            raise StorageClosed(
                "the atomic() block of Django in which the storage was bound has ended: "
                "bind it again in the next one"
            )
        if wrapper.needs_rollback:
            raise StorageUnavailable(
                "an error occurred in this atomic() block of Django, which will be rolled back: "
                "leave the block first"
            )

    check()
    return CallersConnection(driver, owner, "Django", check)


def _check_thread(wrapper: Any) -> None:
    try:
        wrapper.validate_thread_sharing()
    except Exception as error:
        raise InvalidValue(
            f"Django's connection {wrapper.alias!r} belongs to another thread: bind "
            "`django.db.connection` in the thread that runs the atomic() block"
        ) from error
