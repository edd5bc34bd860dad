"""Compares a database file with the write-ahead log beside it, without opening it as a database.

The forms of the log and of its index are those of https://sqlite.org/walformat.html. A file that this process
has open is not read: closing it again would drop the locks that SQLite holds on it here.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from . import inherited

_PAUSE_SECONDS = 0.05
_HEADER = 32
_FRAME_HEADER = 24
_SALTS = slice(16, 24)
_INDEX_SALTS = slice(32, 40)
_BACKFILLED = slice(96, 100)
_BACKFILL_BEGUN = slice(128, 132)
_CHANGES, _SCHEMA_CHANGES = slice(24, 28), slice(40, 44)
_DATABASE_HEADER = 100


class _Frame(NamedTuple):
    number: int
    page: int
    offset: int


def pages_missing_in_file(path: Path) -> int:
    """How many pages of the log should be in the file by now, and are not.

    0 unless the file changed after its log, and for a file that this process has open. A file changes after
    its log when the log is brought into it, and then the pages are in it; or when another file was put in its
    place. A change of the file's mode looks the same as long as nothing was brought into it.
    """
    return _looked_twice(path, lambda log: log.missing())


def is_of_another_file(path: Path) -> bool:
    """Whether the log is certainly that of another file: False also where that cannot be told.

    Only if the file changed after its log, is not open in this process, and if the index of the log tells
    what was brought into the file. That is so if it was written since the machine started: after a loss of
    power it may be older.
    """
    return not _is_of_earlier_start(path) and _looked_twice(path, lambda log: log.contradictions()) > 0


def _is_of_earlier_start(path: Path) -> bool:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return False
    started_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    with suppress(OSError):
        return inherited.beside(path, "-wal").stat().st_mtime < started_at
    return False


def _looked_twice(path: Path, count: Callable[[_Log], int]) -> int:
    found = _look(path, count)
    if found:
        # The files may have changed between two reads.
        time.sleep(_PAUSE_SECONDS)
        found = min(found, _look(path, count))
    return found


def _look(path: Path, count: Callable[[_Log], int]) -> int:
    log_path = inherited.beside(path, "-wal")
    try:
        if path.stat().st_ctime_ns <= log_path.stat().st_ctime_ns:
            return 0
        with inherited.opening:
            # A replaced file may have left its index open here, on which there are locks too.
            if inherited.is_open(path) or inherited.is_open(inherited.beside(path, "-shm")):
                return 0
            with path.open("rb") as file, log_path.open("rb") as log:
                index = _index(path)
                found = count(_Log(file, log, index))
            # Otherwise another process has brought a part of the log into the file, or begun a new one.
            return found if index == _index(path) else 0
    except OSError:
        return 0


def _index(path: Path) -> bytes:
    with suppress(OSError), inherited.beside(path, "-shm").open("rb") as index:
        return index.read(_BACKFILL_BEGUN.stop)
    return b""


class _Log:
    """A log, and the file beside it."""

    def __init__(self, file: BinaryIO, log: BinaryIO, index: bytes) -> None:
        self._file = file
        self._log = log
        header = log.read(_HEADER)
        self._salts = header[_SALTS]
        self._size: int = struct.unpack(">I", header[8:12])[0] if len(header) == _HEADER else 0
        # The index says how many frames were brought into the file, if it belongs to this log.
        self._is_indexed = index[_INDEX_SALTS] == self._salts
        self._is_being_brought_in = self._is_indexed and index[_BACKFILLED] != index[_BACKFILL_BEGUN]
        """Now, or that was cut short."""
        self._backfilled: int = struct.unpack("=I", index[_BACKFILLED])[0] if self._is_indexed else 0

    def missing(self) -> int:
        """See `pages_missing_in_file`."""
        if self._is_being_brought_in or not self._size:
            return 0
        last: dict[int, _Frame] = {}
        for pages, frames in self._commits():
            last |= {frame.page: frame for frame in frames}
            last = {page: frame for page, frame in last.items() if page <= pages}
        return sum(
            not self._is_in_file(frame)
            for frame in last.values()
            if not self._backfilled or frame.number <= self._backfilled
        )

    def contradictions(self) -> int:
        """How many signs there are that the log was written for another file."""
        if not self._is_indexed or self._is_being_brought_in:
            return 0
        if self._backfilled:
            return self.missing()
        return int(self._has_impossible_header())

    def _has_impossible_header(self) -> bool:
        """Whether the first page is not the one before the first that the log has.

        A connection writes the number of changes that it has read plus one, and so the one that is stored if
        it wrote that itself. The number of changes to the schema never goes down.
        """
        first = next((frame for _, frames in self._commits() for frame in frames if frame.page == 1), None)
        if first is None:
            return False
        self._log.seek(first.offset)
        self._file.seek(0)
        after, before = self._log.read(_DATABASE_HEADER), self._file.read(_DATABASE_HEADER)
        if len(before) < _DATABASE_HEADER:
            return False
        changes = _number(after[_CHANGES]) - _number(before[_CHANGES])
        return changes not in (0, 1) or _number(after[_SCHEMA_CHANGES]) < _number(before[_SCHEMA_CHANGES])

    def _is_in_file(self, frame: _Frame) -> bool:
        self._log.seek(frame.offset)
        self._file.seek((frame.page - 1) * self._size)
        return self._log.read(self._size) == self._file.read(self._size)

    def _commits(self) -> Iterator[tuple[int, list[_Frame]]]:
        """How many pages the file has after each commit, and its frames."""
        frames: list[_Frame] = []
        number, offset = 0, _HEADER
        while True:
            self._log.seek(offset)
            head = self._log.read(_FRAME_HEADER)
            if len(head) < _FRAME_HEADER or head[8:16] != self._salts:
                return
            number += 1
            page, pages_after_commit = struct.unpack(">II", head[:8])
            frames.append(_Frame(number, page, offset + _FRAME_HEADER))
            if pages_after_commit:
                yield pages_after_commit, frames
                frames = []
            offset += _FRAME_HEADER + self._size


def _number(value: bytes) -> int:
    return int.from_bytes(value)
