"""Checks of what is between this process and a Postgres server."""

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
    """What two connections at once show about the sessions of the server behind them.

    `shared`: a pooler lends one session to several clients. `noticed`: one connection alone shows that, which
    is what the storage relies on.
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
    """Whether a pooler lends sessions to several clients in turn. Another one cannot be told from none."""
    if not _sessions(context).shared:
        return [ok("each connection has a session of its own: there is no pooler, or one in session mode")]
    with closing(context.second_server_connection()) as connection:
        takes_transactions = connection.takes_transactions()
    if not takes_transactions:
        return [
            problem(
                "a pooler in statement mode is in between, and refuses transactions: the storage needs them",
                "set the pooler to transaction mode or session mode (PgBouncer: pool_mode)",
            )
        ]
    return [
        warning(
            "a pooler in transaction mode shares the sessions of the server: workers are not notified of "
            "jobs, and poll once a second; no statement is prepared; settings such as `lock_timeout` hold in "
            "transactions only",
            "nothing, if that is meant; else give workers a DATABASE_URL that leads to the server itself, or "
            "to a pool in session mode",
        )
    ]


def check_prepared_statements(context: CheckContext) -> Iterable[Outcome]:
    """Whether statements that are prepared stay where they are."""
    sessions = _sessions(context)
    if not sessions.shared:
        return [ok("a statement that has run twice on a connection is prepared there")]
    if sessions.noticed:
        return [ok("none is prepared, since a pooler shares the sessions")]
    return [
        warning(
            "a pooler shares the sessions, and a single connection does not show that: statements are "
            "prepared, and may be lost; such calls are made again",
            "let the pooler keep track of prepared statements (PgBouncer from 1.21: "
            "max_prepared_statements), or lead DATABASE_URL past it",
        )
    ]


def check_listener(context: CheckContext) -> Iterable[Outcome]:
    """Whether a notification of one connection reaches another one. Workers are woken by them."""
    if _sessions(context).shared:
        return [
            warning(
                "no connection listens behind a pooler that shares sessions: workers poll once a second",
                "nothing, if a second does not matter; else lead the DATABASE_URL of workers past the pooler",
            )
        ]
    listener = context.server()
    channel = f"assistly_doctor_{secrets.token_hex(8)}"
    listener.listen(channel)
    with closing(context.second_server_connection()) as sender:
        sender.notify(channel)
        is_notified = listener.is_notified(NOTIFICATION_SECONDS)
    if is_notified:
        return [ok("a notification of one connection reaches another")]
    return [
        problem(
            f"a notification did not arrive within {NOTIFICATION_SECONDS:g} s: workers poll once a second",
            "look what is between this machine and the server: a pooler or proxy may swallow LISTEN",
        )
    ]


CHECKS = (
    Check("pooler", check_pooler, ENGINES),
    Check("prepared-statements", check_prepared_statements, ENGINES),
    Check("listener", check_listener, ENGINES),
)
