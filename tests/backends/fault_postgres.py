"""Connections to Postgres whose statements fail, or which break before or after one."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus

from assistly.storage import PostgresBackend
from assistly.storage.engines.postgres import connections, database
from assistly.storage.engines.postgres.executor import CursorExecutor
from assistly.storage.engines.postgres.wire import LibpqExecutor
from backends.fault_operations import open_on
from backends.fault_plan import DriverFault, FaultyEngine, Plan
from waiting import until

_connect = psycopg.connect
_KEPT = ("assistly_migrations",)
_SENDING = {"send_query", "send_query_params", "send_query_prepared", "send_prepare"}


def _cut(connection: psycopg.Connection[Any]) -> None:
    """Break the connection: the server finds it closed, and the driver does with its next use."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        os.dup2(ours.fileno(), connection.fileno())


def _lose_reply(connection: psycopg.Connection[Any]) -> None:
    """The server has answered; the driver raises as if it had found the connection closed instead."""
    _cut(connection)
    while True:
        connection.pgconn.consume_input()


def _run(connection: psycopg.Connection[Any], statement: str) -> None:
    """In place of the statement that the fault hits."""
    link = connection.pgconn
    link.send_query(statement.encode())
    error: psycopg.Error | None = None
    while result := link.get_result():
        if error is None and result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            error = error_from_result(result)
    if error is not None:
        raise error


def _fails_with(plan: Plan, state: str) -> Callable[[Any], None]:
    """The server raises an error with this SQLSTATE, which ends its transaction."""

    def act(connection: psycopg.Connection[Any]) -> None:
        if connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
            # In the middle of COPY.
            connection.pgconn.put_copy_end(b"injected")
            return
        if plan.command == "COMMIT":
            _run(connection, "ROLLBACK")
        _run(connection, f"DO $$BEGIN RAISE SQLSTATE '{state}'; END$$")

    return act


def _is_terminated(connection: psycopg.Connection[Any]) -> None:
    _run(connection, "SELECT pg_terminate_backend(pg_backend_pid())")


def _is_closed(connection: psycopg.Connection[Any]) -> None:
    """As above, but libpq's own error comes out, which has no SQLSTATE."""
    result = connection.pgconn.exec_(b"SELECT pg_terminate_backend(pg_backend_pid())")
    raise error_from_result(result)


CUTS = [
    DriverFault("cut", _cut, cuts=True),
    DriverFault("cut", _cut, cuts=True, lasting=True),
    DriverFault("cut", _lose_reply, "after", cuts=True),
    DriverFault("cut", _lose_reply, "after", cuts=True, lasting=True),
]


def terminated_by(admin: psycopg.Connection[Any]) -> DriverFault:
    """The session has been ended when the driver sends the next statement."""

    def act(connection: psycopg.Connection[Any]) -> None:
        pid = connection.info.backend_pid
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    return DriverFault("terminated by an administrator", act)


def server_errors(plan: Plan) -> list[DriverFault]:
    """What the server may answer to any statement."""
    states = ("40001", "40P01", "57014", "53100", "25006", "55P03")
    return [
        DriverFault("terminated", _is_terminated),
        DriverFault("closed", _is_closed),
        *(
            DriverFault(state, _fails_with(plan, state), lasting=lasting)
            for state in states
            for lasting in (False, True)
        ),
    ]


class _Link:
    """The driver's connection of a `LibpqExecutor`: counts what it sends."""

    def __init__(self, connection: psycopg.Connection[Any], plan: Plan) -> None:
        self._link = connection.pgconn
        self._connection = connection
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._link, name)
        if name not in _SENDING:
            return found

        def send(*args: Any) -> None:
            self._plan.begin_step(self._connection)
            found(*args)

        return send


def follow(plan: Plan, patches: pytest.MonkeyPatch) -> None:
    """Make the engine open connections that follow the plan."""

    class FaultyConnection(psycopg.Connection[Any]):
        def wait(self, *args: Any, **options: Any) -> Any:
            return plan.step(self, partial(super().wait, *args, **options))

    class FaultyLibpqExecutor(LibpqExecutor):
        def __init__(self, connection: psycopg.Connection[Any], *args: Any) -> None:
            super().__init__(connection, *args)
            self._link = _Link(connection, plan)  # type: ignore[assignment]

        def command(self, text: str) -> str:
            with plan.named(text):
                return super().command(text)

        def _answers(self) -> Any:
            answers = super()._answers()
            plan.end_step(self.connection)
            return answers

    class FaultyCursorExecutor(CursorExecutor):
        def command(self, text: str) -> str:
            with plan.named(text):
                return super().command(text)

    def connect(*args: Any, **options: Any) -> Any:
        if plan.is_down:
            raise psycopg.OperationalError("connection refused")
        return FaultyConnection.connect(*args, **options)

    patches.setattr(psycopg, "connect", connect)
    # Nobody else is there whom a pause before a retry would let through.
    patches.setattr(database, "time", SimpleNamespace(**{**vars(time), "sleep": lambda _: None}))
    patches.setattr(connections, "LibpqExecutor", FaultyLibpqExecutor)
    patches.setattr(connections, "CursorExecutor", FaultyCursorExecutor)


class FaultyPostgresEngine(FaultyEngine):
    """One schema, and one connection, for all runs. `fast_path`: see `PostgresBackend`."""

    def __init__(self, url: str, schema: str, patches: pytest.MonkeyPatch, *, fast_path: bool) -> None:
        self.fast_path = fast_path
        self.plan = Plan()
        self._name = f"faults {uuid.uuid4().hex[:8]}"
        self._backend = PostgresBackend(
            psycopg.conninfo.make_conninfo(url, application_name=self._name),
            1,
            schema=schema,
            fast_path=fast_path,
            prepare_threshold=0,
        )
        self._observing = PostgresBackend(url, 1, schema=schema)
        self.observer = open_on(self._observing)
        self.observer.ping()
        follow(self.plan, patches)
        self.storage = open_on(self._backend)
        self._admin = _connect(url, autocommit=True)
        tables = self._admin.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename <> ALL(%s)",
            [schema, [*_KEPT]],
        )
        self._empty = ";".join(f'DELETE FROM "{schema}".{table}' for (table,) in tables).encode()

    def empty(self) -> None:
        self._admin.execute(self._empty)

    def check_idle(self) -> None:
        """A server may need a moment to find a connection closed."""
        busy = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'"
            " AND backend_type = 'client backend'"
        )
        until(lambda: self._admin.execute(busy, [self._name]).fetchone() == (0,), patience=5)

    def disconnect(self) -> None:
        self._backend._database.server.drop_connections()  # type: ignore[attr-defined]

    def close(self) -> None:
        for each in (self._backend, self._observing, self._admin):
            each.close()
