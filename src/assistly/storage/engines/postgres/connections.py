"""Opens the connections of the pool, and checks whether they still work."""

from __future__ import annotations

import os
import re
import socket
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ConnStatus

from ... import forks
from ...errors import ConfigurationError, StorageUnavailable
from .adapters import UtcLoader, adapt
from .conninfo import Target
from .errors import connect_problem
from .executor import BEGIN, CursorExecutor, PostgresExecutor
from .limits import Limit, Limits
from .places import Place
from .polling import poll_readable
from .wire import LibpqExecutor, supports

CONFIGURE_SECONDS = 3.0
"""How long the first statement on a new connection may take."""

LOCK_TIMEOUT = timedelta(seconds=10)
"""How long a statement waits for each lock that another transaction holds, unless the server limits it."""

# A global, since looking up a member of the enumeration takes longer than the call of libpq.
_OK = ConnStatus.OK

# Make the planner use the index that each statement has, whatever the statistics of a table that fills and
# empties within minutes say: docs/decisions/0016. Undo what the role or the database may have set that
# changes what statements do; a server whose configuration makes it read-only stays so. A search path that has
# pg_catalog behind a schema of the application, whose operators and types would then be used, gets it in
# front, too. Nothing is set if the server process is not the one that the connection was opened to: then a
# pooler shares its sessions, and other clients would get these settings.
_CONFIGURE = """
SELECT pg_catalog.set_config(name, value, FALSE)
FROM (VALUES ('TimeZone', 'UTC'), ('enable_bitmapscan', 'off'), ('enable_seqscan', 'off'),
    ('enable_sort', 'off'), ('jit', 'off'), ('plan_cache_mode', 'force_generic_plan'),
    ('default_transaction_isolation', 'read committed'), ('default_transaction_deferrable', 'off'),
    ('default_transaction_read_only', 'off'), ('lock_timeout', %s),
    ('search_path', pg_catalog.concat('pg_catalog, ', pg_catalog.current_setting('search_path')))
) AS setting (name, value)
WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %s
    AND CASE
        WHEN name OPERATOR(pg_catalog.=) 'lock_timeout'
        THEN pg_catalog.current_setting(name) OPERATOR(pg_catalog.=) '0'
        WHEN name OPERATOR(pg_catalog.=) 'default_transaction_read_only'
        THEN pg_catalog.current_setting(name) OPERATOR(pg_catalog.=) 'on' AND (
            SELECT source OPERATOR(pg_catalog.=) ANY ('{user,database,database user}')
            FROM pg_catalog.pg_settings
            WHERE pg_settings.name OPERATOR(pg_catalog.=) 'default_transaction_read_only'
        )
        WHEN name OPERATOR(pg_catalog.=) 'search_path'
        THEN pg_catalog.strpos(pg_catalog.current_setting(name), 'pg_catalog') OPERATOR(pg_catalog.>) 0
        ELSE TRUE
    END
"""

# For a session that a pooler shares: sets the limit for the transaction alone.
_LIMIT_LOCKS = """
SELECT pg_catalog.set_config('lock_timeout', '{}', TRUE)
WHERE pg_catalog.current_setting('lock_timeout') OPERATOR(pg_catalog.=) '0'
"""

# Libpq gives no code for an error of connecting, only its text.
_FULL = re.compile("too many (clients|connections)|remaining connection slots|no more connections allowed")

# What the driver takes for no limit, or for one below two seconds.
_ENDLESS_SECONDS = 130
_LEAST_SECONDS = 2
_HANDSHAKE_SECONDS = 1.5


class ServerIsFull(StorageUnavailable):
    """The server, a pooler, the database or the role has no connection left. One may come back soon."""


class Hosts(NamedTuple):
    """The hosts of a target, and how many seconds connecting may take with all of them together."""

    text: str
    seconds: float

    @classmethod
    def of(cls, target: Target, *, looks_up: bool = False) -> Hosts:
        """Read the hosts, ports and `connect_timeout` as libpq does.

        With `looks_up`, names are looked up, since the driver tries each address of a name.
        """
        given = conninfo_to_dict(target.text)

        def listed(name: str, variable: str, default: str) -> list[str]:
            return str(given.get(name) or os.environ.get(variable) or default).split(",")

        addresses = listed("hostaddr", "PGHOSTADDR", "")
        hosts = listed("host", "PGHOST", ",".join(addresses))
        ports = listed("port", "PGPORT", "5432")
        if len(ports) < len(hosts):
            ports = ports[:1] * len(hosts)
        named = (f"{host or 'localhost'}:{port or 5432}" for host, port in zip(hosts, ports, strict=False))
        try:
            seconds = int(float(str(given["connect_timeout"])))
        except ValueError:
            seconds = _LEAST_SECONDS
        each = max(seconds, _LEAST_SECONDS) if seconds > 0 else _ENDLESS_SECONDS
        tries = sum(map(_addresses, hosts)) if looks_up and addresses == [""] else len(hosts)
        if listed("target_session_attrs", "PGTARGETSESSIONATTRS", "") == ["prefer-standby"]:
            # The driver looks for a standby on all of them, and then for any server.
            tries *= 2
        return cls(", ".join(named), each * tries + _HANDSHAKE_SECONDS)


def seconds_to_connect(target: Target) -> float:
    """Look up how long connecting may take with all addresses of all hosts together."""
    return Hosts.of(target, looks_up=True).seconds


def _addresses(host: str) -> int:
    """How many addresses the driver will try for a host."""
    if not host or host.startswith(("/", "@")):
        return 1
    try:
        return len(socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return 1


class PooledConnection:
    """A connection with its executor.

    `readable` waits for input from the server, for up to that many milliseconds. `generation` is that of
    the process that opened the connection (`forks.generation`); `age` and `place` are used by the pool.
    """

    __slots__ = ("age", "connection", "executor", "generation", "link", "place", "readable")

    def __init__(self, connection: psycopg.Connection[Any], executor: PostgresExecutor) -> None:
        self.connection = connection
        self.generation = forks.generation()
        self.executor = executor
        self.readable = poll_readable(connection.fileno())
        self.age = 0
        self.place: Place | None = None
        self.link = connection.pgconn

    @property
    def is_alive(self) -> bool:
        """Whether the connection works, checked without a round trip.

        A server that closed the connection has left an end of file in the socket. Other input can only be
        notices: they are read, and then the socket must be empty.
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
        """Close the connection. In a forked child keep it open: the socket is shared with the parent."""
        if self.generation == forks.generation():
            self.connection.close()
        else:
            forks.keep_for_ever(self.connection)

    def __del__(self) -> None:
        if not self.connection.closed:
            self.close()


def is_broken(connection: psycopg.Connection[Any]) -> bool:
    """Whether the driver has noticed that the server is gone."""
    return connection.closed or connection.pgconn.status != _OK


def raw_connection(target: Target, **options: Any) -> psycopg.Connection[Any]:
    """Open a connection in autocommit mode. Raises StorageUnavailable or ConfigurationError, without the
    password in the message."""
    try:
        # Called by its public name, which tracers replace.
        return psycopg.connect(target.text, autocommit=True, **options)
    except psycopg.Error as error:
        problem = connect_problem(error)
        if isinstance(problem, StorageUnavailable) and _FULL.search(str(error)):
            problem = ServerIsFull(str(problem))
        raise problem from error


def connect(
    target: Target,
    *,
    prepare_threshold: int | None,
    fast_path: bool | None,
    lock_timeout: timedelta = LOCK_TIMEOUT,
    limits: Limits | None = None,
) -> PooledConnection:
    """Open a connection that is ready for the statements of the stores.

    The options: see `PostgresBackend`.
    """
    connection = raw_connection(target, prepare_threshold=prepare_threshold)
    limit = (limits or Limits()).of(connection)
    try:
        limit.apply()
        limit.begin(CONFIGURE_SECONDS, cancels=False)
        return PooledConnection(connection, _configured(connection, limit, fast_path, lock_timeout))
    except BaseException as error:
        connection.close()
        if isinstance(error, psycopg.Error):
            raise connect_problem(error) from error
        raise


def _configured(
    connection: psycopg.Connection[Any], limit: Limit, fast_path: bool | None, lock_timeout: timedelta
) -> PostgresExecutor:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise ConfigurationError(
            f"the database has the encoding {encoding} instead of UTF8: create one with ENCODING 'UTF8'"
        )
    # 0 would mean no limit.
    longest = f"{max(1, lock_timeout // timedelta(milliseconds=1))}ms"
    settings = connection.execute(
        _CONFIGURE, [longest, connection.info.backend_pid], prepare=False
    ).fetchall()
    adapt(connection)
    if not settings:
        # A session that a pooler shares may hold statements that other clients have prepared.
        connection.prepare_threshold = None
        connection.adapters.register_loader("timestamptz", UtcLoader)
    is_fast = supports(connection) if fast_path is None else fast_path
    executor = (LibpqExecutor if is_fast else CursorExecutor)(connection, limit)
    if not settings:
        executor.begin = f"{BEGIN}; {_LIMIT_LOCKS.format(longest)}"
    return executor
