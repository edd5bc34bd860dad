"""How long a call waits for the answers of the server: docs/decisions/0029."""

from __future__ import annotations

import math
import weakref
from collections.abc import Generator
from datetime import timedelta
from time import monotonic
from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg.errors import QueryCanceled

from ...errors import ConfigurationError

T = TypeVar("T")

TIMEOUT = timedelta(seconds=30)
"""How long a call waits for answers, unless STORAGE_TIMEOUT_SECONDS says otherwise."""

PING_SECONDS = 5.0
LONG_SECONDS = 3600.0
"""For a migration, and for a vacuum."""

ROLLBACK_SECONDS = 1.0
CANCEL_SECONDS = 1.0
CLOSING_SECONDS = 1.0
"""For an answer that is still awaited when the storage is closed."""

_RECORDS = 1000
"""For each further thousand, a statement has the limit of a call once more, up to ten times in all."""

_MOST_TIMES = 10


class LimitExceeded(psycopg.OperationalError):
    """The server did not answer within the time limit.

    If the connection is not broken, the server has cancelled the statement, and nothing was written.
    """


class Limits:
    """The time limits of one storage. `seconds` is that of a call."""

    def __init__(self, timeout: timedelta = TIMEOUT) -> None:
        if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
            raise ConfigurationError(
                f"STORAGE_TIMEOUT_SECONDS (timeout) is {timeout!r}: it must be greater than 0"
            )
        self.seconds = timeout.total_seconds()
        self.is_closed = False
        self._all: list[weakref.ref[Limit]] = []

    def of(self, connection: psycopg.Connection[Any]) -> Limit:
        """Return the limit of a connection."""
        limit = Limit(connection, self)
        self._all.append(weakref.ref(limit, self._all.remove))
        return limit

    def close(self) -> None:
        """Let all calls wait for a second at most for each answer from now on."""
        self.is_closed = True
        for reference in list(self._all):
            limit = reference()
            if limit is not None:
                limit.shorten(CLOSING_SECONDS)


class Limit:
    """The time limit of the call that uses a connection now.

    Whatever waits for the server calls `expire` once `deadline` has passed. The first time that cancels the
    statement, and leaves a second for the answer; the second time closes the connection.
    """

    __slots__ = (
        "__weakref__",
        "_cancels",
        "_connection",
        "_is_setting",
        "_limits",
        "_seconds",
        "deadline",
        "is_cancelled",
    )

    def __init__(self, connection: psycopg.Connection[Any], limits: Limits | None = None) -> None:
        self._connection = connection
        self._limits = limits
        self._seconds = math.inf
        self._is_setting = False
        self._cancels = True
        self.deadline = math.inf
        """In seconds of `time.monotonic`."""
        self.is_cancelled = False
        """Whether a statement of the call was cancelled: then the call runs no further one."""

    def begin(self, seconds: float | None = None, *, cancels: bool = True) -> None:
        """Begin a call that may take so many seconds from now on (None: the limit of the storage).

        Without `cancels`, the connection is closed at once when they have passed.
        """
        limits = self._limits
        self._is_setting = seconds is None
        if seconds is None:
            seconds = math.inf if limits is None else limits.seconds
        if limits is not None and limits.is_closed:
            seconds = min(seconds, CLOSING_SECONDS)
        self._seconds = seconds
        self._cancels = cancels
        self.is_cancelled = False
        self.deadline = monotonic() + seconds

    def allow(self, records: int) -> None:
        """Begin a statement for so many records, which may take longer if they are many."""
        if self._limits is not None:
            times = 1 + max(0, records - 1) // _RECORDS
            self.begin(self._limits.seconds * min(times, _MOST_TIMES))
            self._is_setting = True

    def shorten(self, seconds: float) -> None:
        """Leave so many seconds at most."""
        self.deadline = min(self.deadline, monotonic() + seconds)

    def expire(self) -> None:
        """Cancel the statement. If it was cancelled before, close the connection and raise LimitExceeded."""
        if self._cancels and not self.is_cancelled:
            until = monotonic() + CANCEL_SECONDS
            if self.cancel():
                self.deadline = until
                return
        # Not `close`, which gives a connection of the driver's pool back.
        self._connection.pgconn.finish()
        raise LimitExceeded(f"{self._reason()}, and the connection was closed")

    def cancel(self) -> bool:
        """Ask the server to cancel the statement. Returns whether it has received that."""
        self.is_cancelled = True
        if not psycopg.capabilities.has_cancel_safe():
            # Before libpq 17, nothing limits how long that takes.
            return False
        try:
            self._connection.cancel_safe(timeout=CANCEL_SECONDS)
        except psycopg.Error:
            return False
        return True

    def check(self, error: psycopg.Error) -> None:
        """Raise LimitExceeded if the error is the answer to `expire`."""
        if self.is_cancelled and isinstance(error, QueryCanceled):
            raise LimitExceeded(f"{self._reason()}, and the statement was cancelled") from error

    def refuse(self) -> NoReturn:
        """Raise LimitExceeded for a further statement of a call, if the last one ended before it could be
        cancelled."""
        raise LimitExceeded(f"{self._reason()}, and the call was cancelled")

    def _reason(self) -> str:
        limits = self._limits
        if limits is not None and limits.is_closed:
            return f"the storage was closed, and the server did not answer within {CLOSING_SECONDS:g} s"
        text = f"the server did not answer within {self._seconds:g} s"
        if limits is None or not self._is_setting:
            return text
        return f"{text} (STORAGE_TIMEOUT_SECONDS is {limits.seconds:g})"

    def apply(self) -> None:
        """Apply the limit to all that the driver does on the connection: cursors and COPY wait there."""
        wait = self._connection.wait

        def limited_wait(generator: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
            try:
                return wait(self.limited(generator), *args, **options)
            except QueryCanceled as error:
                self.check(error)
                raise

        self._connection.wait = limited_wait  # type: ignore[method-assign, assignment]

    def withdraw(self) -> None:
        """Leave the connection as it was before `apply`."""
        vars(self._connection).pop("wait", None)

    def limited(self, generator: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """Run a generator of the driver, which yields whenever it has to wait, within the limit.

        The driver resumes it ten times a second, whether the server has answered or not.
        """
        if self.is_cancelled:
            self.refuse()
        try:
            awaited = next(generator)
            while True:
                ready = yield awaited
                if monotonic() > self.deadline:
                    self.expire()
                awaited = generator.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
