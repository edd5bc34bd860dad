"""Checks of the connection between this process and a Postgres server."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import closing
from typing import NamedTuple

from .checks import Check
from .context import CheckContext
from .findings import Outcome, ok, problem, warning

ENGINES = ("postgres",)

NOTIFICATION_SECONDS = 3.0

_PID = "SELECT pg_catalog.pg_backend_pid()"


class SessionSharing(NamedTuple):
    """What two simultaneous connections show about the server sessions behind them.

    `shared`: a pooler lends one session to several clients. `noticed`: a single connection shows it, which
    the storage relies on.
    """

    shared: bool
    noticed: bool


def _sessions(context: CheckContext) -> SessionSharing:
    first = context.server()
    with closing(context.second_server_connection()) as second:
        told = first.reported_pid, second.reported_pid
        real = first.value(_PID), second.value(_PID)
    noticed = told[0] != real[0] and told[1] != real[1]
    return SessionSharing(told != real or real[0] == real[1], noticed)


def check_pooler(context: CheckContext) -> Iterable[Outcome]:
    """Whether a pooler is in between. Its mode cannot be seen, unless it refuses transactions.

    A pooler that gives each connection a session of its own, and passes on the process ids, cannot be
    detected.
    """
    sessions = _sessions(context)
    if not sessions.shared:
        return [ok("no pooler is detected: each connection has its own session")]
    with closing(context.second_server_connection()) as connection:
        takes_transactions = connection.takes_transactions()
    if not takes_transactions:
        return [
            problem(
                "a pooler in statement mode refuses transactions, which the storage needs",
                "set the pooler to transaction mode or session mode (PgBouncer: pool_mode)",
            )
        ]
    direct = "give workers a DATABASE_URL that points to the server itself"
    if not sessions.noticed:
        return [
            warning(
                "a pooler lends sessions to several clients, but a single connection does not show it: "
                "settings and prepared statements stay in sessions that other clients get, and "
                "notifications may get lost",
                direct,
            )
        ]
    return [
        warning(
            "a pooler is in between: workers get no notifications and poll once a second; no statement is "
            "prepared; settings such as `lock_timeout` apply only inside transactions",
            f"nothing, if this is intended; otherwise {direct}",
        )
    ]


def check_prepared_statements(context: CheckContext) -> Iterable[Outcome]:
    """Whether prepared statements stay on their sessions."""
    sessions = _sessions(context)
    if not sessions.shared:
        return [ok("a statement is prepared when it has run twice on a connection")]
    if sessions.noticed:
        return [ok("no statement is prepared, because a pooler is in between")]
    return [
        warning(
            "a pooler shares the sessions, but a single connection does not show it: statements are "
            "prepared, and may be lost; such calls are repeated",
            "let the pooler track prepared statements (PgBouncer from 1.21: max_prepared_statements), or "
            "point DATABASE_URL to the server itself",
        )
    ]


def check_listener(context: CheckContext) -> Iterable[Outcome]:
    """Whether a notification from one connection reaches another one. Notifications wake workers."""
    sessions = _sessions(context)
    if sessions.shared:
        return [
            warning(
                "a pooler is in between, so no connection listens: workers poll once a second"
                if sessions.noticed
                else "a pooler may give notifications to other clients: workers then poll once a second",
                "nothing, if a second does not matter; otherwise point the DATABASE_URL of workers to the "
                "server itself",
            )
        ]
    listener = context.server()
    channel = f"assistly_doctor_{secrets.token_hex(8)}"
    listener.listen(channel)
    with closing(context.second_server_connection()) as sender:
        sender.notify(channel)
        is_notified = listener.is_notified(NOTIFICATION_SECONDS)
    if is_notified:
        return [ok("a notification from one connection reaches another")]
    return [
        problem(
            f"a notification did not arrive within {NOTIFICATION_SECONDS:g} s: workers poll once a second",
            "check what is between this machine and the server: a pooler or proxy may drop LISTEN",
        )
    ]


CHECKS = (
    Check("pooler", check_pooler, ENGINES),
    Check("prepared-statements", check_prepared_statements, ENGINES),
    Check("listener", check_listener, ENGINES),
)
