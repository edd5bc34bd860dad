"""What opening a file may change."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import inherited
from .driver import sqlite3
from .inherited import beside, is_newer_than_its_log

_TRIES = 3
# The times of files go on in ticks of some milliseconds.
_TICK_SECONDS = 0.004
_TICKS = 25


class Access(Enum):
    """What a storage may do to its file."""

    USE = "use"
    """Make it, switch it to WAL mode, and write to it."""

    KEEP = "keep"
    """Write to a file that is there. Its journal mode stays as it is."""

    LOOK = "look"
    """Read a file that is there. Neither the file nor its log is changed."""


def opened(name: str, **options: Any) -> Any:
    """A connection of the driver, without transactions of its own. Raises errors of the driver."""
    with inherited.opening:
        return sqlite3.connect(name, isolation_level=None, **options)


def connect_to_look(path: Path, **options: Any) -> Any:
    """A connection of the driver that reads, and changes neither the file nor a log or journal beside it.

    The last connection to a file brings the log into it and deletes it, unless it cannot write. If the log is
    empty, there is nothing to bring, and a connection that can write leaves no files behind. Raises errors
    of the driver.
    """
    was_newer = is_newer_than_its_log(path)
    try:
        return _connect_to_look(path, **options)
    finally:
        if was_newer:
            _keep_newer(path)


def _keep_newer(path: Path) -> None:
    """Keep a file newer than its log: for root, SQLite sets the owner of the log, and with it its time."""
    for _ in range(_TICKS):
        if is_newer_than_its_log(path):
            return
        with suppress(OSError):
            path.chmod(stat.S_IMODE(path.stat().st_mode))
        time.sleep(_TICK_SECONDS)


def _connect_to_look(path: Path, **options: Any) -> Any:
    for tries_left in reversed(range(_TRIES)):
        raw = opened(_uri(path), uri=True, **options)
        try:
            raw.execute("PRAGMA query_only = ON")
            raw.execute("SELECT count(*) FROM sqlite_master").fetchall()
        except sqlite3.OperationalError as error:
            raw.close()
            # The log may have been deleted just now, by the last connection of another process.
            if not tries_left or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN:
                raise
        except BaseException:
            raw.close()
            raise
        else:
            break
    return raw


def connect_without_log(path: Path) -> Any:
    """A connection of the driver to the file alone, as it would be if it had no log."""
    return opened(f"file:{_quoted(path)}?mode=ro&immutable=1", uri=True)


def _quoted(path: Path) -> str:
    return quote(os.fsencode(path))


def _uri(path: Path) -> str:
    name = _quoted(path)
    if not any(_has_content(beside(path, end)) for end in ("-wal", "-journal")):
        return f"file:{name}?mode=rw"
    # The first connection overwrites the index, and with it what was brought into the file so far.
    index = "&readonly_shm=1" if beside(path, "-shm").exists() else ""
    return f"file:{name}?mode=ro{index}"


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
