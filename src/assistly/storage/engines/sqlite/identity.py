"""Notices that a database file or its log was replaced, deleted or truncated while it is open.

SQLite goes on with the file that it has opened, which nobody else sees any more. So the path is compared with
that file. Only `stat` is used: closing any descriptor of the file would drop this process's locks on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...errors import StorageCorrupt
from .inherited import beside

CHECK_SECONDS = 0.5
"""How often reads check the file, and all calls the log. Writes check the file each time, before they end."""

_SMALLEST = 512
"""The smallest page of SQLite. It takes a file of one byte for an empty one, and then deletes its log."""

RESTORE = (
    "Stop all processes that use it, put the right file in its place, delete the -wal and -shm files beside "
    "it, and start again"
)
"""What to do, in messages."""


class FileIdentity:
    """The file that is open, by device and inode. Once it is lost, every later check fails.

    `was_vacuumed` tells whether a VACUUM has made the file shorter, and `is_consistent` whether SQLite can
    read all of it. Both open a new connection.
    """

    def __init__(
        self,
        path: Path,
        was_vacuumed: Callable[[], bool],
        is_consistent: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._was_vacuumed = was_vacuumed
        self._is_consistent = is_consistent
        self._clock = clock
        self._opened: tuple[int, int] | None = None
        self._log: os.stat_result | None = None
        self._index: os.stat_result | None = None
        self.is_log_damaged = False
        """Whether a part of the log is gone, or its index, without which other processes may write to it."""
        self._size = 0
        self._next_check = 0.0
        self._problem: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether the file was opened."""
        return self._opened is not None

    def is_of(self, found: os.stat_result) -> bool:
        """Whether this is the file."""
        return self._opened == _place(found)

    def note(self) -> None:
        """Remember the file that was just opened, or check that it is the same one."""
        if self._opened is None:
            found = os.stat(self._path)  # noqa: PTH116 - faster, and called by each write
            self._opened, self._size = _place(found), found.st_size
        else:
            self.check()
        self.note_log()

    @property
    def is_log_known(self) -> bool:
        """Whether the log was noted since a connection was closed."""
        return self._log is not None

    def note_log(self) -> None:
        """Remember the log, while a connection is open. A new file has none before its first transaction."""
        if self._log is None:
            with suppress(OSError):
                self._log, self._index = self._beside("-wal"), self._beside("-shm")

    def forget_log(self) -> None:
        """Note that a connection is closed: SQLite deletes the log with the last one of all processes."""
        self._log = None

    def check_sometimes(self) -> None:
        """As `check`, but at most every CHECK_SECONDS."""
        if self._clock() >= self._next_check:
            self.check()

    def check(self) -> None:
        """Raise StorageCorrupt if the path no longer leads to the file that was opened."""
        if self._problem is None:
            now = self._clock()
            self._problem = self._look()
            if self._problem is None and now >= self._next_check:
                self._problem = self._look_at_log()
                self._next_check = now + CHECK_SECONDS
        if self._problem is not None:
            self._next_check = 0.0
            raise StorageCorrupt(
                f"the SQLite file {str(self._path)!r} {self._problem} while this storage had it open: what "
                f"was written since then may be lost. {RESTORE}"
            )

    def _look_at_log(self) -> str | None:
        if self._log is None:
            return None
        try:
            log, index = self._beside("-wal"), self._beside("-shm")
        except OSError:
            return None  # As in `_look`: the open log may be the right one.
        if log is None or _place(log) != _place(self._log):
            return "lost its write-ahead log, which was deleted or replaced,"
        if self._index is not None and (index is None or _place(index) != _place(self._index)):
            self.is_log_damaged = True
            return "lost the index of its write-ahead log, the -shm file, which was deleted or replaced,"
        if log.st_size < self._log.st_size and not self._is_consistent():
            self.is_log_damaged = True
            return "lost a part of its write-ahead log, which was truncated or overwritten,"
        self._log, self._index = log, index
        return None

    def _beside(self, ending: str) -> os.stat_result | None:
        try:
            return os.stat(beside(self._path, ending))  # noqa: PTH116 - as above
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _look(self) -> str | None:
        if self._opened is None:
            return None
        try:
            found = os.stat(self._path)  # noqa: PTH116 - as above
            if not self.is_of(found):
                return "was replaced by another file"
            if found.st_size < self._size and self._is_truncated():
                return "was truncated or overwritten"
        except (FileNotFoundError, NotADirectoryError):
            return "was deleted or moved"
        except OSError:
            # A missing right on the folder, for example: the open file may be the right one.
            return None
        self._size = found.st_size
        return None

    def _is_truncated(self) -> bool:
        """Whether the file is shorter for another reason than a VACUUM."""
        size = os.stat(self._path).st_size  # noqa: PTH116 - as above
        return size < self._size and (size < _SMALLEST or not self._was_vacuumed())


def _place(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
