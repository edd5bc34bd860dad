"""One LMDB environment for each folder and process: LMDB does not survive a second one, nor a fork."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from assistly.storage import forks
from assistly.storage.errors import ConfigurationError, StorageClosed, StorageCorrupt, StorageUnavailable

_READERS = 1024
_SECONDS = 5.0
"""How long closing, and a fork, wait for calls that are under way."""

_DAMAGED = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
_SHORTAGES = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO)


class Environment(forks.ForkAware):
    """Opens the environment when it is used, and closes it before the process forks.

    Where a fork waits in vain for the uses of other threads, the child is refused for good.
    """

    def __init__(self, path: Path, map_size: int) -> None:
        self.path = path
        self.users = 0
        self._map_size = map_size
        self._changed = threading.Condition()
        self._environment: lmdb.Environment | None = None
        self._uses = 0
        self._is_forking = False
        self._is_closed = False
        self._is_unsafe = False
        forks.register(self)

    def _enter(self) -> lmdb.Environment:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_forking)
            if self._is_closed:
                raise StorageClosed("the storage is closed: open a new one")
            if self._is_unsafe:
                raise StorageUnavailable(f"the process was forked while it used {self.path}: start it afresh")
            if self._environment is None:
                self._environment = self._opened()
            self._uses += 1
            return self._environment

    def _leave(self) -> None:
        with self._changed:
            self._uses -= 1
            self._changed.notify_all()

    @contextmanager
    def use(self) -> Iterator[lmdb.Environment]:
        """Around each use, which must be short: a fork waits for its end."""
        environment = self._enter()
        try:
            with translated(self.path):
                yield environment
        finally:
            self._leave()

    def _opened(self) -> lmdb.Environment:
        with translated(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
            environment = lmdb.open(str(self.path), map_size=self._map_size, max_readers=_READERS, mode=0o600)
            # The slots of readers that were killed.
            environment.reader_check()
            return environment

    def _close(self) -> None:
        if self._changed.wait_for(lambda: not self._uses, _SECONDS) and self._environment is not None:
            self._environment.close()
            self._environment = None

    def close(self) -> None:
        """For good. What is still in use after some seconds stays open until the process ends."""
        with self._changed:
            self._is_closed = True
            self._close()

    def before_fork(self) -> None:
        with self._changed:
            self._is_forking = True
            self._close()

    def after_fork_in_parent(self) -> None:
        with self._changed:
            self._is_forking = False
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        global _registry
        _registry = threading.Lock()
        self._changed = threading.Condition()
        self._is_forking = False
        self._uses = 0
        if self._environment is not None:
            # Closing it here would free the parent's slots in the table of readers.
            forks.keep_for_ever(self._environment)
            self._environment = None
            self._is_unsafe = True


_registry = threading.Lock()
_environments: dict[Path, Environment] = {}


def take(path: Path, map_size: int) -> Environment:
    """The environment of this folder, for one more store, which gives it back once."""
    with _registry, translated(path):
        place = path.resolve()
        if place not in _environments:
            _environments[place] = Environment(place, map_size)
        _environments[place].users += 1
        return _environments[place]


def give_back(environment: Environment) -> None:
    """Close it with its last store."""
    with _registry:
        environment.users -= 1
        if not environment.users:
            del _environments[environment.path]
            environment.close()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of LMDB and of the file system, in the words of `assistly.storage.errors`."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise StorageUnavailable(f"{path} is as large as LMDB_MAP_SIZE allows: give it more") from error
    except _DAMAGED as error:
        raise StorageCorrupt(f"{path} is damaged, or no LMDB folder: {error}") from error
    except lmdb.Error as error:
        raise StorageUnavailable(f"{path} cannot be used: {error}") from error
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise StorageUnavailable(f"{path} cannot be used: {error}") from error
        raise ConfigurationError(
            f"LMDB_PATH must be the path of a folder that this user may write to, and is {path}: {error}"
        ) from error
