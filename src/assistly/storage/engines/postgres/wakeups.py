"""Who waits for jobs, and what there is to tell them: docs/decisions/0010 says why it is complete."""

from __future__ import annotations

import math
import os
import threading
import weakref
from datetime import datetime
from time import monotonic

from .conninfo import Target
from .courier import Announcement, Courier
from .dialect import PostgresDialect

_POLL_WHILE_DEAF = 1.0
_GOODBYE = 1.0
# What comes sooner after the one before is a stream.
_QUIET = 0.001


class Wakeups:
    """`announce` tells every process of jobs that are due, and `wait` sleeps until one does.

    Both leave the talking to a thread with a connection of its own, which begin with the first use.
    """

    def __init__(self, target: Target, dialect: PostgresDialect, *, prepare_threshold: int | None) -> None:
        self._target = target
        self._dialect = dialect
        self._prepare_threshold = prepare_threshold
        self._closed = False
        self._reset()
        _everyone.add(self)

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._changes = 0
        self._heard: tuple[int, datetime] | None = None
        self._announced_at = -math.inf
        self._seen = threading.local()
        self._pending: Announcement | None = None
        self._has_listeners = False
        self._hears = False
        self._courier: Courier | None = None

    def announce(self, announcement: Announcement) -> None:
        """To be called after the commit.

        What is pending is going to be taken after this look at it, and so after that commit.
        """
        self._announced_at = monotonic()
        pending = self._pending
        if pending is not None and pending.covers(announcement):
            return
        with self._condition:
            pending = self._pending
            if pending is None:
                self._pending = announcement
                self._call_courier()
            else:
                self._pending = announcement.merged(pending)

    def is_quiet(self) -> bool:
        """Whether nothing was announced just now: then a statement may tell of its job itself."""
        return monotonic() - self._announced_at >= _QUIET

    def told(self) -> None:
        """A statement did so."""
        self._announced_at = monotonic()

    def look(self) -> None:
        """To be called by a thread before it looks at the jobs: then it sees what was heard of before."""
        self._seen.changes = self._changes

    def wait(self, timeout: float) -> datetime | None:
        """Return when something changed since this thread's last look or `wait`; at once if there is none.

        If all that changed is that there is a job, when that is due.
        """
        with self._condition:
            if not self._has_listeners:
                self._has_listeners = True
                self._call_courier()
            seen = getattr(self._seen, "changes", None)
            if seen is not None:
                longest = threading.TIMEOUT_MAX if self._hears else _POLL_WHILE_DEAF
                self._condition.wait_for(lambda: self._closed or self._changes != seen, min(timeout, longest))
            self._seen.changes = self._changes
            heard = self._heard
            return heard[1] if heard is not None and seen is not None and heard[0] == seen + 1 else None

    def close(self) -> None:
        """What was announced before is still told, if the server answers soon."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            courier = self._courier
        if courier is not None:
            courier.rouse()
            courier.join(_GOODBYE)

    def leave_to_parent(self) -> None:
        """In a forked child: the thread is not there, and the connection is the parent's."""
        if self._courier is not None:
            _inherited.append(self._courier)
        self._reset()

    def take(self) -> Announcement | None:
        with self._condition:
            announcement, self._pending = self._pending, None
        return announcement

    def put_back(self, announcement: Announcement) -> None:
        with self._condition:
            self._pending = announcement.merged(self._pending)

    def changed(self, *, due_at: datetime | None = None, hears: bool | None = None) -> None:
        with self._condition:
            if hears is not None:
                self._hears = hears
            self._changes += 1
            self._heard = None if due_at is None else (self._changes, due_at)
            self._condition.notify_all()

    @property
    def has_announcement(self) -> bool:
        return self._pending is not None

    @property
    def has_listeners(self) -> bool:
        return self._has_listeners

    @property
    def hears(self) -> bool:
        """Whether what others announce is known to arrive here."""
        return self._hears

    @property
    def is_closed(self) -> bool:
        return self._closed

    def _call_courier(self) -> None:
        if self._courier is not None:
            self._courier.rouse()
        elif not self._closed:
            self._courier = Courier(self, self._target, self._dialect, self._prepare_threshold)
            self._courier.start()


_everyone: weakref.WeakSet[Wakeups] = weakref.WeakSet()
_inherited: list[Courier] = []


def _after_fork_in_child() -> None:
    for wakeups in list(_everyone):
        wakeups.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
