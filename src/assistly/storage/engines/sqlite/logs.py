"""Compares a database file with the write-ahead log beside it, without opening it as a database.

The forms of the log and of its index are those of https://sqlite.org/walformat.html.
"""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

_PAUSE_SECONDS = 0.05
_HEADER = 32
_FRAME_HEADER = 24
_SALTS = slice(16, 24)
_INDEX_SALTS = slice(32, 40)
_BACKFILLED = slice(96, 100)
_BACKFILL_BEGUN = slice(128, 132)


class _Frame(NamedTuple):
    number: int
    offset: int


def pages_missing_in_file(path: Path) -> int:
    """How many pages of the log should be in the file by now, and are not.

    0 unless the file changed after its log. That happens when the log is brought into the file, and then the
    pages are in it; or when another file was put in its place. A change of the file's mode looks the same as
    long as nothing was brought into it. Closing the file, as this does, drops the locks that this process
    has on it: call it before it is opened as a database.
    """
    found = _look(path)
    if found:
        # The files may have changed between two reads.
        time.sleep(_PAUSE_SECONDS)
        found = min(found, _look(path))
    return found


def _look(path: Path) -> int:
    log_path = Path(f"{path}-wal")
    try:
        if path.stat().st_ctime_ns <= log_path.stat().st_ctime_ns:
            return 0
        with path.open("rb") as file, log_path.open("rb") as log:
            return _missing(file, log, _index(path))
    except OSError:
        return 0


def _index(path: Path) -> bytes:
    with suppress(OSError), Path(f"{path}-shm").open("rb") as index:
        return index.read(_BACKFILL_BEGUN.stop)
    return b""


def _missing(file: BinaryIO, log: BinaryIO, index: bytes) -> int:
    header = log.read(_HEADER)
    if len(header) < _HEADER:
        return 0
    (size,) = struct.unpack(">I", header[8:12])
    frames = _committed(log, header[_SALTS], size)
    # The index says how many frames were brought into the file, if it belongs to this log.
    backfilled = 0
    if index[_INDEX_SALTS] == header[_SALTS]:
        if index[_BACKFILLED] != index[_BACKFILL_BEGUN]:
            return 0  # It is being brought into the file now, or that was cut short.
        (backfilled,) = struct.unpack("=I", index[_BACKFILLED])
    missing = 0
    for page, frame in frames.items():
        if backfilled and frame.number > backfilled:
            continue
        log.seek(frame.offset)
        file.seek((page - 1) * size)
        missing += log.read(size) != file.read(size)
    return missing


def _committed(log: BinaryIO, salts: bytes, size: int) -> dict[int, _Frame]:
    """The last frame of each page, up to the last commit."""
    committed: dict[int, _Frame] = {}
    pending: dict[int, _Frame] = {}
    number = 0
    while len(head := log.read(_FRAME_HEADER)) == _FRAME_HEADER and head[8:16] == salts:
        number += 1
        page, pages_after_commit = struct.unpack(">II", head[:8])
        pending[page] = _Frame(number, log.tell())
        if pages_after_commit:
            committed |= pending
            committed = {page: frame for page, frame in committed.items() if page <= pages_after_commit}
            pending = {}
        log.seek(size, 1)
    return committed
