"""Opening connections of our own, and telling whether one still works."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import ConnStatus

from ... import forks
from ...errors import ConfigurationError, StorageUnavailable
from .adapters import UtcLoader, adapt
from .conninfo import Target
from .errors import connect_problem
from .executor import CursorExecutor, PostgresExecutor
from .polling import poll_readable
from .wire import LibpqExecutor, supports

# To look this up in its class takes longer than to ask libpq.
_OK = ConnStatus.OK

# Each statement has its index, whatever the statistics say of a table that is empty at noon and full at
# one: docs/decisions/0016. Only where the server process is the one that the connection was told of: a
# pooler lends its sessions to others, who would find them with our settings.
_CONFIGURE = """
SELECT pg_catalog.set_config(name, value, FALSE)
FROM (VALUES ('TimeZone', 'UTC'), ('enable_bitmapscan', 'off'), ('enable_seqscan', 'off'),
    ('enable_sort', 'off'), ('jit', 'off'), ('plan_cache_mode', 'force_generic_plan')
) AS setting (name, value)
WHERE pg_catalog.pg_backend_pid() = %s
"""


class PooledConnection:
    """A connection with its executor. `readable` tells whether something came, within milliseconds."""

    __slots__ = ("age", "connection", "executor", "generation", "link", "readable")

    def __init__(self, connection: psycopg.Connection[Any], executor: PostgresExecutor) -> None:
        self.connection = connection
        self.executor = executor
        self.readable = poll_readable(connection.fileno())
        self.age = 0
        self.link = connection.pgconn
        self.generation = forks.generation()

    @property
    def is_alive(self) -> bool:
        """Without a round trip: a server that went away has left an end of file in the socket.

        What else may wait there are notices. They are read, and then nothing more may follow.
        """
        for _ in range(4):
            if self.link.status != _OK:
                return False
            if not self.readable(0):
                return True
            try:
                self.link.consume_input()
            except psycopg.Error:
                return False
        return False

    def close(self) -> None:
        """Close it. After a fork it is only kept: the child has the same socket as its parent."""
        if self.generation == forks.generation():
            self.connection.close()
        else:
            forks.keep_for_ever(self.connection)


def is_broken(connection: psycopg.Connection[Any]) -> bool:
    """Whether the driver has noticed that the server is gone."""
    return connection.closed or connection.pgconn.status != _OK


def raw_connection(target: Target, **options: Any) -> psycopg.Connection[Any]:
    """A connection in autocommit. Raises our own errors, without the password."""
    try:
        # By its public name, which tracers replace.
        return psycopg.connect(target.text, autocommit=True, **options)
    except psycopg.Error as error:
        problem = connect_problem(target.redact(" ".join(str(error).split())))
        raise problem from (None if target.reveals(str(error)) else error)


def connect(target: Target, *, prepare_threshold: int | None, fast_path: bool | None) -> PooledConnection:
    """A new connection, ready for the statements of the stores.

    `fast_path`: whether they go to libpq without a cursor; None where the driver is one that this was
    tested with, and nobody watches its cursors.
    """
    connection = raw_connection(target, prepare_threshold=prepare_threshold)
    try:
        return PooledConnection(connection, _configured(connection, fast_path))
    except BaseException as error:
        connection.close()
        if isinstance(error, psycopg.Error):
            raise StorageUnavailable(f"cannot connect to Postgres: {error}") from error
        raise


def _configured(connection: psycopg.Connection[Any], fast_path: bool | None) -> PostgresExecutor:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise ConfigurationError(f"the database has the encoding {encoding}: it must have UTF8")
    settings = connection.execute(_CONFIGURE, [connection.info.backend_pid], prepare=False).fetchall()
    adapt(connection)
    if not settings:
        # A session that a pooler lends may hold statements that other clients have prepared.
        connection.prepare_threshold = None
        connection.adapters.register_loader("timestamptz", UtcLoader)
    is_fast = supports(connection) if fast_path is None else fast_path
    return LibpqExecutor(connection) if is_fast else CursorExecutor(connection)
