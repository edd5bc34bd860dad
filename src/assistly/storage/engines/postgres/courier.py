"""The thread that talks to the server for those who announce jobs and those who wait for them."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg import Notify

from .bell import Bell
from .conninfo import Target
from .dialect import PostgresDialect, quote
from .notifying import NOTIFY, NOTIFY_IF_FIRST, channel, told_time

APPLICATION_NAME = "assistly wake-ups"

_SHORTEST_REST = 0.005
_LONGEST_REST = 0.04
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_ECHO_PATIENCE = 1.0
_LONGEST_ECHO_PAUSE = 30.0
_FRESH = timedelta(seconds=1)
# Longer than any time.
_ECHO_LENGTH = 32


class Announcement(NamedTuple):
    """Jobs that are due soon after `now` began to wait, and this is the first of them."""

    due_at: datetime
    id: int
    now: datetime

    def covers(self, other: Announcement) -> bool:
        """Whether whoever hears of this need not hear of the other."""
        return self <= other and other.now - self.now < _FRESH

    def merged(self, other: Announcement | None) -> Announcement:
        if other is None:
            return self
        first, second = (self, other) if self <= other else (other, self)
        return first if first.now >= second.now else Announcement(first.due_at, first.id, second.now)


class Desk(Protocol):
    """Where the courier gets its work, and leaves what it heard."""

    @property
    def has_announcement(self) -> bool: ...

    @property
    def has_listeners(self) -> bool: ...

    @property
    def is_closed(self) -> bool: ...

    def take(self) -> Announcement | None: ...

    def put_back(self, announcement: Announcement) -> None: ...

    def changed(self, *, due_at: datetime | None = None, hears: bool | None = None) -> None:
        """Jobs may have changed: one is due at `due_at`, or nobody knows when.

        `hears` tells whether from now on changes are heard of.
        """


class Courier:
    def __init__(
        self, desk: Desk, target: Target, dialect: PostgresDialect, prepare_threshold: int | None
    ) -> None:
        self._desk = desk
        self._target = target
        self._prepare_threshold = prepare_threshold
        self._schema = dialect.schema
        self._notify_if_first = dialect.render(NOTIFY_IF_FIRST)
        self._bell = Bell()
        self._line: Line | None = None
        self._thread = threading.Thread(target=self._run, name="assistly-wake-ups", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def rouse(self) -> None:
        self._bell.ring()

    def join(self, timeout: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self._converse()
        finally:
            self._desk.changed(hears=False)
            self._bell.close()

    def _converse(self) -> None:
        pause = _FIRST_PAUSE
        while not self._has_finished():
            began = time.monotonic()
            with suppress(psycopg.Error, OSError), self._connect() as connection:
                self._line = Line(connection, self._schema, self._desk, self._connect)
                self._serve(self._line)
            self._desk.changed(hears=False)
            if self._desk.is_closed:
                break
            lasted = time.monotonic() - began > _LONGEST_PAUSE
            pause = _FIRST_PAUSE if lasted else min(2 * pause, _LONGEST_PAUSE)
            self._rest(pause)

    def _rest(self, pause: float) -> None:
        until = time.monotonic() + pause
        while not self._desk.is_closed and (left := until - time.monotonic()) > 0:
            self._bell.wait(left)

    def _has_finished(self) -> bool:
        return self._desk.is_closed and not self._desk.has_announcement

    def _serve(self, line: Line) -> None:
        rest, rested_at = _SHORTEST_REST, 0.0
        while not self._has_finished():
            now = time.monotonic()
            if self._desk.has_announcement and (self._desk.is_closed or now >= rested_at):
                # In a stream each delivery speaks for more of them, and costs their senders less.
                rest = min(2 * rest, _LONGEST_REST) if now - rested_at < rest else _SHORTEST_REST
                self._deliver(line)
                rested_at = time.monotonic() + rest
                continue
            listen_at = line.listen() if self._desk.has_listeners else math.inf
            line.hear(self._bell, min(listen_at, rested_at if self._desk.has_announcement else math.inf))

    def _deliver(self, line: Line) -> None:
        announcement = self._desk.take()
        if announcement is None:
            return
        try:
            line.announce(self._notify_if_first, announcement)
        except psycopg.OperationalError:
            self._desk.put_back(announcement)
            raise

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self._target.text,
            autocommit=True,
            prepare_threshold=self._prepare_threshold,
            application_name=APPLICATION_NAME,
        )


class Line:
    """A connection, on which announcements arrive once it listens.

    That they do is not taken for granted: a pooler between may lend the session that listens to
    others. So one is sent over another connection, again and again until it arrives.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        schema: str,
        desk: Desk,
        connect: Callable[[], psycopg.Connection[Any]],
    ) -> None:
        self._connection = connection
        self._channel = channel(schema)
        self._desk = desk
        self._connect = connect
        self._echo: str | None = None
        self._hears = False
        self._try_at = 0.0
        self._pause = _ECHO_PATIENCE
        connection.add_notify_handler(self._note)

    def announce(self, statement: str, announcement: Announcement) -> None:
        self._connection.execute(statement, {"channel": self._channel, **announcement._asdict()})

    def listen(self) -> float:
        """When this wants to be called again."""
        if self._hears:
            return math.inf
        if time.monotonic() >= self._try_at:
            self._echo = secrets.token_hex(_ECHO_LENGTH // 2)
            self._connection.execute(f"LISTEN {quote(self._channel)}")
            with self._connect() as other:
                other.execute(NOTIFY, {"channel": self._channel, "payload": self._echo})
            self._try_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_ECHO_PAUSE)
        return self._try_at

    def hear(self, bell: Bell, until: float) -> None:
        """Note what arrives until the bell rings, or until then."""
        self._note_all()
        left = None if until == math.inf else max(0.0, until - time.monotonic())
        if bell.wait(left, self._connection.fileno()):
            self._connection.pgconn.consume_input()
            self._note_all()

    def _note_all(self) -> None:
        """Also what came along with the answer to a statement, and waits in the driver's buffer."""
        while (found := self._connection.pgconn.notifies()) is not None:
            self._note(Notify(found.relname.decode(), found.extra.decode(), found.be_pid))

    def _note(self, notify: Notify) -> None:
        if notify.payload == self._echo:
            self._hears = True
            self._desk.changed(hears=True)
        elif len(notify.payload) != _ECHO_LENGTH:
            self._desk.changed(due_at=told_time(notify.payload))
