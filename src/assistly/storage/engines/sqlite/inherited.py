"""Files that a forked child must not use, because a connection to them was open at the fork.

SQLite keeps the locks of a process in a table in memory, and a child inherits a copy. If the parent had a
connection to a file, that copy says that the process holds the file's locks, and a connection that the
child opens takes none from the operating system. The parent, or any other process, may then delete the
write-ahead log with the child's commits. The child cannot repair this, so it must not use the file at all.
If every connection was closed before the fork, the table is empty, and the child works like a new process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import StorageUnavailable

_FILES = ("/proc/self/fd", "/dev/fd")
_MOST_FILES = 4096

_unsafe: set[tuple[int, int]] = set()

opening = threading.Lock()
"""Held while SQLite opens a file, and while another descriptor of a file is open here.

Closing any descriptor of a file drops all locks that the process has on it. Who opens one holds this, looks
at `is_open` first, and closes it again before another thread can have SQLite open the file.
"""


def beside(path: Path, ending: str) -> Path:
    """The file that SQLite has beside a database: it follows symbolic links before it names that."""
    return Path(f"{os.path.realpath(path)}{ending}")


def is_newer_than_its_log(path: Path) -> bool:
    """Whether a file changed after its log: by a checkpoint, or because it alone was restored or emptied."""
    try:
        log, file = beside(path, "-wal").stat(), path.stat()
    except OSError:
        return False
    return log.st_size > 0 and (file.st_size == 0 or file.st_ctime_ns > log.st_ctime_ns)


def note_fork(path: Path) -> None:
    """In a child, before it opens a connection: remember the file as unsafe if it inherited an open one.

    `opening` is replaced, which a thread of the parent may have held.
    """
    global opening
    opening = threading.Lock()
    if is_open(path):
        with suppress(OSError):
            found = path.stat()
            _unsafe.add((found.st_dev, found.st_ino))


def is_open(path: Path) -> bool:
    """Whether this process has the file open."""
    with suppress(OSError):
        found = path.stat()
        return (found.st_dev, found.st_ino) in set(_open_files())
    return False


def check(path: Path) -> None:
    """Raise StorageUnavailable if this process cannot use the file."""
    if not _unsafe:
        return
    with suppress(OSError):
        found = path.stat()
        if (found.st_dev, found.st_ino) in _unsafe:
            raise StorageUnavailable(
                f"the SQLite file {str(path)!r} cannot be used in this process: when it was forked, a "
                "connection to the file was open in the parent (a transaction, a call in another thread, or "
                "a connection of the application's own), so SQLite's locks do not work here. Fork "
                "outside transactions and with such connections closed, or start the process with 'spawn'"
            )


def _open_files() -> Iterator[tuple[int, int]]:
    """Device and inode of each file that this process has open."""
    for number in _file_numbers():
        with suppress(OSError):
            found = os.fstat(number)
            yield found.st_dev, found.st_ino


def _file_numbers() -> Iterator[int]:
    for folder in _FILES:
        with suppress(OSError):
            yield from [int(entry.name) for entry in Path(folder).iterdir()]
            return
    yield from range(_MOST_FILES)
