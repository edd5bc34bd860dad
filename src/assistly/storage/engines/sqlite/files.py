"""The database file, and how connections to it are opened."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import sqlite_utils

from ...errors import ConfigurationError, StorageError, StorageUnavailable
from . import inherited
from .connections import Connection
from .driver import sqlite3
from .errors import DRIVER_ERRORS, translate

_OLDEST = (3, 37, 0)
_CACHED_STATEMENTS = 256
_creating = threading.Lock()
# Lack of disk space or file handles, which may pass.
_SHORTAGES = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path, so that a later `chdir` does not change it.

    Raises ConfigurationError for a path that SQLite would not take for a file that is shared and kept, such
    as ":memory:".
    """
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(f"SQLITE_PATH: {path!r} is not the path of a file")
    if text == ":memory:":
        raise ConfigurationError(
            "SQLITE_PATH: ':memory:' is not shared between connections; for a storage that ends with "
            "the process use STORAGE_ENGINE=memory"
        )
    try:
        return Path(text).absolute()
    except OSError as error:
        raise ConfigurationError(
            f"SQLITE_PATH: {text!r} is relative to a working directory that no longer exists "
            f"({error.strerror}): give an absolute path"
        ) from error


def require_sqlite() -> None:
    """Raise ConfigurationError if this SQLite is too old."""
    if sqlite3.sqlite_version_info < _OLDEST:
        raise ConfigurationError(
            f"SQLite {'.'.join(map(str, _OLDEST[:2]))} or newer is needed, and this Python has "
            f"{sqlite3.sqlite_version}: pip install 'assistly[sqlite]'"
        )


class DatabaseFile:
    """Opens connections to one file, which the first one creates."""

    def __init__(self, path: Path, busy_timeout: timedelta) -> None:
        self.path = path
        self._busy_seconds = busy_timeout.total_seconds()

    def connect(self) -> Connection:
        """A new connection. Raises StorageUnavailable where a fork has made the file unsafe to use."""
        inherited.check(self.path)
        self._make_file()
        try:
            raw = sqlite3.connect(
                str(self.path),
                timeout=self._busy_seconds,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=_CACHED_STATEMENTS,
            )
            self._configure(raw)
        except DRIVER_ERRORS as error:
            raise translate(error, str(self.path)) from error
        return Connection(raw, str(self.path))

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may have held while it created the file."""
        global _creating
        _creating = threading.Lock()
        inherited.note_fork(self.path)

    def _make_file(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Closing any descriptor of a file drops this process's locks on it, so the file is created before
            # SQLite opens it.
            with _creating, suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            mode = self.path.stat().st_mode
        except OSError as error:
            raise self._no_file(error) from error
        if stat.S_ISDIR(mode):
            raise ConfigurationError(f"SQLITE_PATH: {str(self.path)!r} is a folder; give the path of a file")

    def _no_file(self, error: OSError) -> StorageError:
        reason = error.strerror or str(error)
        if error.errno in _SHORTAGES:
            return StorageUnavailable(f"the SQLite file {str(self.path)!r} cannot be created: {reason}")
        return ConfigurationError(
            f"SQLITE_PATH: the file {str(self.path)!r} cannot be opened or created: {reason}. "
            "Give a path in a folder that this user may write to"
        )

    def _configure(self, raw: sqlite3.Connection) -> None:
        try:
            database = sqlite_utils.Database(raw, execute_plugins=False)
            self._switch_to_wal(database)
            database.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            raw.close()
            raise

    def _switch_to_wal(self, database: sqlite_utils.Database) -> None:
        """Switch to WAL mode, which needs exclusive access: SQLite's busy timeout does not apply to that."""
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                database.enable_wal()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                break
        if database.journal_mode != "wal":
            raise ConfigurationError(
                f"SQLITE_PATH: {str(self.path)!r} is on a file system that SQLite cannot share between "
                "processes (no WAL mode there). Give a path on a local disk"
            )
