"""The database file, and how connections to it are opened."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from ...addresses import path_problem
from ...errors import ConfigurationError, StorageCorrupt, StorageError, StorageUnavailable
from ...validation import shown
from . import inherited, logs
from .access import Access, connect_to_look, opened
from .connections import Connection
from .driver import sqlite3
from .errors import DRIVER_ERRORS, translate
from .identity import RESTORE, FileIdentity

_OLDEST = (3, 37, 0)
_CACHED_STATEMENTS = 256
_creating = threading.Lock()
# Lack of disk space or file handles, which may pass.
_SHORTAGES = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path, so that a later `chdir` does not change it. `~` is expanded.

    Raises ConfigurationError for a URL, and for a path that SQLite would not take for a file that is shared
    and kept, such as ":memory:".
    """
    text = path if isinstance(path, str | os.PathLike) else None
    text = None if text is None else os.fspath(text)
    if not isinstance(text, str) or not _is_encodable(text):
        raise ConfigurationError(f"SQLITE_PATH must be the path of a file, not {shown(path)}")
    problem = path_problem(text)
    if problem is not None:
        raise ConfigurationError(f"SQLITE_PATH: {problem}")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ConfigurationError(
            f"SQLITE_PATH: the home folder in {text!r} is unknown: give an absolute path"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"SQLITE_PATH: {text!r} is relative to a working directory that no longer exists "
            f"({error.strerror}): give an absolute path"
        ) from error


def _is_encodable(text: str) -> bool:
    try:
        return "\0" not in text and bool(os.fsencode(text))
    except UnicodeError:
        return False


def require_file(path: Path) -> None:
    """Raise ConfigurationError for a folder, a pipe and so on, and OSError if there is nothing."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        name = str(path) if str(path).isprintable() else repr(str(path))
        raise ConfigurationError(f"SQLITE_PATH: {name!r} is {kind}; give the path of a file")


def require_sqlite() -> None:
    """Raise ConfigurationError if this SQLite is too old."""
    if sqlite3.sqlite_version_info < _OLDEST:
        raise ConfigurationError(
            f"SQLite {'.'.join(map(str, _OLDEST[:2]))} or later is required, but this Python has "
            f"{sqlite3.sqlite_version}: pip install 'assistly[sqlite]'"
        )


class DatabaseFile:
    """Opens connections to one file, which the first one creates, if it may."""

    def __init__(self, path: Path, busy_timeout: timedelta, access: Access = Access.USE) -> None:
        self.path = path
        self._access = access
        self.name = str(path) if str(path).isprintable() else repr(str(path))
        """The path in messages."""
        self.identity = FileIdentity(path, self._was_vacuumed, self._is_consistent)
        self._schema_version = 0
        self._busy_seconds = busy_timeout.total_seconds()

    def exists(self) -> bool:
        """Whether there is something at the path. Raises ConfigurationError if that cannot be told."""
        try:
            self.path.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._no_file(error) from error
        return True

    def connect(self, *, may_change: bool = True) -> Connection:
        """A new connection. With `may_change` False the file, which exists, is not switched to WAL mode.

        Raises StorageUnavailable where a fork has made the file unsafe to use, and StorageCorrupt if the file
        is another one than before, or not that of the log beside it.
        """
        inherited.check(self.path)
        if self.identity.is_known:
            self.identity.check()
            return self._open(may_change=may_change)
        if self._access is Access.USE:
            self._make_file()
        self._require_file()
        if inherited.is_newer_than_its_log(self.path):
            self._check_log()
        connection = self._open(may_change=may_change)
        try:
            self.identity.note()
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_log(self) -> None:
        """Raise StorageCorrupt if the log beside the file is that of another one. Nothing is changed.

        Beside an empty file it is, too: SQLite would delete it.
        """
        if (
            self.path.stat().st_size == 0
            or logs.is_of_another_file(self.path)
            or not self._is_consistent(access=Access.LOOK)
        ):
            raise StorageCorrupt(
                f"the SQLite file {self.name!r} and the write-ahead log beside it, {self.path.name}-wal, "
                "do not match: the file was restored or replaced after the log was written. "
                f"{RESTORE}"
            )

    def _open(self, *, may_change: bool = True, access: Access | None = None) -> Connection:
        access = access or self._access
        options: dict[str, Any] = {
            "timeout": self._busy_seconds,
            "check_same_thread": False,
            "cached_statements": _CACHED_STATEMENTS,
        }
        try:
            if access is Access.LOOK:
                return Connection(connect_to_look(self.path, **options), self.name)
            raw = opened(str(self.path), **options)
            if may_change and access is Access.USE:
                self._configure(raw)
        except DRIVER_ERRORS as error:
            raise translate(error, self.name) from error
        return Connection(raw, self.name)

    def note_schema(self, connection: Connection) -> None:
        """Remember the number that SQLite increments with each VACUUM and each change of the schema."""
        ((self._schema_version,),) = connection.rows("PRAGMA schema_version")

    def _was_vacuumed(self) -> bool:
        """Whether a VACUUM has made the file shorter. True if that cannot be told now."""
        before = self._schema_version
        return self._is_consistent(lambda: self._schema_version > before)

    def _is_consistent(
        self, is_expected: Callable[[], bool] = lambda: True, *, access: Access | None = None
    ) -> bool:
        """Whether a new connection finds no damage, and what is expected. True if that cannot be told now."""
        try:
            connection = self._open(access=access)
        except StorageCorrupt:
            return False
        except StorageError:
            return True
        try:
            self.note_schema(connection)
            check = "integrity_check" if access is Access.LOOK else "quick_check"
            return is_expected() and _is_consistent(connection, check)
        except StorageCorrupt:
            return False
        except StorageError:
            return True
        finally:
            connection.close()

    def after_fork_in_child(self) -> None:
        """Replace the locks, which a thread of the parent may have held while it opened the file."""
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
        except OSError as error:
            raise self._no_file(error) from error

    def _require_file(self) -> None:
        try:
            require_file(self.path)
        except OSError as error:
            raise self._no_file(error) from error

    def _is_dangling(self) -> bool:
        return any(place.is_symlink() and not place.exists() for place in (self.path, *self.path.parents))

    def _no_file(self, error: OSError) -> StorageError:
        reason = error.strerror or str(error)
        if error.errno in _SHORTAGES:
            return StorageUnavailable(f"the SQLite file {self.name!r} cannot be created: {reason}")
        if isinstance(error, FileNotFoundError | FileExistsError) and self._is_dangling():
            reason = "it leads over a symbolic link to nothing"
        elif isinstance(error, FileExistsError):
            reason = "a folder of the path is a file"
        return ConfigurationError(
            f"SQLITE_PATH: the file {self.name!r} cannot be opened or created: {reason}. "
            "Give a path in a folder that this user may write to"
        )

    def _configure(self, raw: sqlite3.Connection) -> None:
        try:
            self._switch_to_wal(raw)
            raw.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            raw.close()
            raise

    def _switch_to_wal(self, raw: sqlite3.Connection) -> None:
        """Switch to WAL mode, which needs exclusive access: SQLite's busy timeout does not apply to that."""
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                ((mode,),) = raw.execute("PRAGMA journal_mode = WAL").fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                break
        if mode != "wal":
            raise ConfigurationError(
                f"SQLITE_PATH: {self.name!r} is on a file system that SQLite cannot share between "
                "processes (no WAL mode there). Give a path on a local disk"
            )


def _is_consistent(connection: Connection, check: str) -> bool:
    """Whether SQLite finds no damage. True if it cannot look now, because the file is busy for example.

    `check` is `quick_check`, or `integrity_check`, which also compares the indexes with their tables.
    """
    try:
        return connection.rows(f"PRAGMA {check}(1)") == [("ok",)]
    except StorageCorrupt:
        return False
    except StorageError:
        return True


def no_database() -> Connection:
    """A connection to an empty database in memory, in place of a file that does not exist."""
    return Connection(sqlite3.connect(":memory:", isolation_level=None), ":memory:")
