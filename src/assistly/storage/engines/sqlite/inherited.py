"""Files that this process may not use, since a connection to them was open when it was forked.

SQLite keeps the locks that a process holds in a table of its own, and a child inherits that table as it
was. As long as a connection of the parent's is in it, a connection that the child opens to the same file
believes that the process has its locks already, and takes none from the operating system: the parent, or
any other process, then takes the log of the child's commits for its own to remove. Nothing in the child
can repair that, so it must not use the file at all. Where every connection was closed before the fork the
table is empty, and the child begins like any new process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import StorageUnavailable

_FILES = ("/proc/self/fd", "/dev/fd")
_MOST_FILES = 4096

_unsafe: set[tuple[int, int]] = set()


def note_fork(path: Path) -> None:
    """In a child, before it opens anything: see whether a connection to the file came along."""
    with suppress(OSError):
        found = path.stat()
        if (found.st_dev, found.st_ino) in set(_open_files()):
            _unsafe.add((found.st_dev, found.st_ino))


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
                "a connection of the application's own), and SQLite's locks do not work here since. Fork "
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
