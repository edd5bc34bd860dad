"""A publisher that appends one line of JSON per job to a file."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from assistly.storage.errors import ConfigurationError

from ..publisher import Unknown
from .json_lines import as_line

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from assistly.storage.records import Job


class FilePublisher:
    """Appends a line to the file `path` atomically, and flushes it to the disk.

    Any number of processes may share the file. The remote id is the name of the file and the offset of the
    line. A new file has mode 0600. If a line was written but may not have reached the disk, the outcome is
    unknown. Raises ConfigurationError if `path` is a directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if self._path.is_dir():
            raise ConfigurationError(f"the file to publish to is a directory: {self._path}")
        self._mutex = threading.Lock()

    def __call__(self, job: Job) -> str:
        line = as_line(job)
        with self._mutex, _opened(self._path) as file:
            start = os.fstat(file).st_size
            if start and os.pread(file, 1, start - 1) != b"\n":
                line = b"\n" + line  # the last line was cut off by a crash
            _append(file, line, start)
            try:
                os.fsync(file)
            except OSError as error:
                raise Unknown(f"{self._path.name}: the line may not be on the disk: {error}") from error
        return f"{self._path.name[:400]}@{start}"


def _append(file: int, line: bytes, start: int) -> None:
    try:
        written = 0
        while written < len(line):
            written += os.write(file, line[written:])
    except OSError:
        os.ftruncate(file, start)
        raise


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    new = not path.exists()
    if new:
        path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
            if new:
                _sync_directory(path.parent)
        yield file
    finally:
        os.close(file)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
