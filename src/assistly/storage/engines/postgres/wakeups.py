"""Wakes the threads that wait for jobs, with LISTEN and NOTIFY: docs/decisions/0020."""

from __future__ import annotations

import hashlib
import selectors
import socket
import threading
from contextlib import closing, suppress
from time import monotonic
from typing import Any

import psycopg

from ... import forks
from ...errors import StorageClosed
from .conninfo import Target
from .dialect import quote
from .limits import Limit

APPLICATION_NAME = "assistly wake-ups"

POLL_SECONDS = 1.0
"""Seconds that a waiting thread sleeps at most, so that it also finds jobs without a notification."""

QUIET = 0.01
"""If the last due job was added longer ago than this (seconds), the INSERT itself sends the notification."""

INTERVAL = 0.05
"""Seconds between other notifications: a commit with one takes a lock of the whole server."""

NOTIFY = "SELECT pg_catalog.pg_notify(%(channel)s, '')"

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_JOIN_SECONDS = 1.0
_ANSWER_SECONDS = 3.0

# Not epoll, whose state in the kernel could confuse a new descriptor with a closed one of the same number.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


def channel(schema: str) -> str:
    """The notification channel of a schema. The name is a hash, since Postgres limits it to 63 bytes."""
    return f"assistly_jobs_{hashlib.blake2b(schema.encode(), digest_size=8).hexdigest()}"


def is_lent(connection: psycopg.Connection[Any]) -> bool:
    """Whether a pooler lends the session to other clients, who would get the notifications."""
    rows = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchall()
    return rows != [(connection.info.backend_pid,)]


class Waker:
    """A self-pipe: lets a thread wait for a descriptor until another thread calls `wake`."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def wake(self) -> None:
        """End the current `wait`, or the next one."""
        # If the buffer is full, the wait ends anyway; if the socket is closed, no thread waits.
        with suppress(OSError):
            self._sender.send(b"\0")

    def wait(self, timeout: float | None, descriptor: int | None = None) -> None:
        """Return after `wake`, when the descriptor is readable, or after `timeout` seconds (None: never)."""
        with _Selector() as selector:
            selector.register(self._receiver, selectors.EVENT_READ)
            if descriptor is not None:
                selector.register(descriptor, selectors.EVENT_READ)
            selector.select(timeout)
        with suppress(BlockingIOError):
            self._receiver.recv(4096)

    def close(self) -> None:
        """Close both sockets."""
        self._receiver.close()
        self._sender.close()


class Wakeups(forks.ForkAware):
    """Notifies all processes of due jobs, and lets threads wait for such notifications.

    One thread does both, on a connection of its own. It starts with the first use. While the connection is
    down, waiting threads poll once a second.
    """

    def __init__(self, target: Target, schema: str) -> None:
        self._target = target
        self.channel = channel(schema)
        self._is_closed = False
        self._reset()
        forks.register(self)

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._seen = threading.local()
        self._changes = 0
        self._is_pending = False
        self._called_at = self._notified_at = -INTERVAL
        self._is_awaited = False
        self._reconnects = False
        self._steps_aside = False
        self.is_listening = False
        self._thread: threading.Thread | None = None
        self._waker: Waker | None = None
        self._connection: psycopg.Connection[Any] | None = None

    def notify(self) -> None:
        """Send a notification soon. Call it after the commit of the jobs."""
        self._called_at = monotonic()
        # The thread clears the flag before it sends, so a pending notification is sent after that commit.
        if self._is_pending and self._waker is not None:
            return
        with self._condition:
            self._is_pending = True
            self._wake()

    def may_notify(self) -> bool:
        """Whether the caller's INSERT should send the notification itself: not if one follows another."""
        now = monotonic()
        if now - self._called_at < QUIET:
            return False
        self._called_at = self._notified_at = now
        return True

    def mark_seen(self) -> None:
        """Call it before reading the jobs: the next `wait` of this thread ends with a later change."""
        self._seen.changes = self._changes

    def wait(self, timeout: float) -> None:
        """Return when jobs may have changed since this thread's `mark_seen`, or after `timeout` seconds."""
        with self._condition:
            if self._is_closed:
                raise StorageClosed("the storage is closed")
            if not self._is_awaited or self._waker is None:
                self._is_awaited = True
                self._wake()
            seen = getattr(self._seen, "changes", -1)
            self._condition.wait_for(
                lambda: self._is_closed or self._changes != seen, min(timeout, POLL_SECONDS)
            )

    def reconnect(self) -> None:
        """Open another connection soon, since the server of this one may be of no use any more."""
        self._reconnects = True
        waker = self._waker
        if waker is not None:
            waker.wake()

    def step_aside(self) -> None:
        """Close the connection for some seconds, since the server has no other one for the calls."""
        self._steps_aside = True
        self.reconnect()

    def close(self) -> None:
        """End all waits, and the thread after it has sent a pending notification. Takes a second at most."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
            thread, waker = self._thread, self._waker
        if waker is not None:
            waker.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_SECONDS)

    def after_fork_in_child(self) -> None:
        """Start again without the thread, which does not exist here, and without the parent's connection."""
        forks.keep_for_ever((self._waker, self._connection))
        self._reset()

    def _wake(self) -> None:
        if self._waker is not None:
            self._waker.wake()
        elif not self._is_closed:
            waker = Waker()
            thread = threading.Thread(target=self._run, args=(waker,), name="assistly-wake-ups", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # No thread can be started: waiting threads poll, and the next call tries again.
                waker.close()
            else:
                self._thread, self._waker = thread, waker

    def _run(self, waker: Waker) -> None:
        pause = _FIRST_PAUSE
        try:
            while not self._is_closed or self._is_pending:
                began = monotonic()
                self._reconnects = self._steps_aside = False
                with suppress(psycopg.Error, OSError), closing(self._connect()) as self._connection:
                    self._serve(self._connection, waker)
                self._changed(is_listening=False)
                if self._is_closed:
                    break
                lasted = monotonic() - began > _LONGEST_PAUSE
                pause = _FIRST_PAUSE if lasted else min(2 * pause, _LONGEST_PAUSE)
                if self._steps_aside:
                    pause = _LONGEST_PAUSE
                self._pause(waker, pause)
        finally:
            self._changed(is_listening=False)
            waker.close()

    def _pause(self, waker: Waker, seconds: float) -> None:
        until = monotonic() + seconds
        while not self._is_closed and (left := until - monotonic()) > 0:
            waker.wait(left)

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self._target.text, autocommit=True, prepare_threshold=None, application_name=APPLICATION_NAME
        )

    def _serve(self, connection: psycopg.Connection[Any], waker: Waker) -> None:
        connection.add_notify_handler(lambda _: self._changed())
        limit = Limit(connection)
        limit.apply()
        limit.begin(_ANSWER_SECONDS, cancels=False)
        can_listen = not is_lent(connection)
        while not self._reconnects:
            limit.begin(_ANSWER_SECONDS, cancels=False)
            if can_listen and self._is_awaited and not self.is_listening:
                connection.execute(f"LISTEN {quote(self.channel)}")
                self._changed(is_listening=True)
            left = self._send_pending(connection)
            if self._is_closed and left is None:
                return
            waker.wait(left, connection.fileno())
            connection.pgconn.consume_input()
            while connection.pgconn.notifies() is not None:
                self._changed()

    def _send_pending(self, connection: psycopg.Connection[Any]) -> float | None:
        """Send a pending notification, or return the seconds until it may be sent; else None."""
        if not self._is_pending:
            return None
        left = self._notified_at + INTERVAL - monotonic()
        if left > 0 and not self._is_closed:
            return left
        self._is_pending = False
        self._notified_at = monotonic()
        try:
            connection.execute(NOTIFY, {"channel": self.channel})
        except psycopg.Error:
            self._is_pending = True
            raise
        return None

    def _changed(self, *, is_listening: bool | None = None) -> None:
        with self._condition:
            if is_listening is not None:
                self.is_listening = is_listening
            self._changes += 1
            self._condition.notify_all()
