"""An engine for assistly on LMDB, for the processes of one Unix machine."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from pydantic import Field

from assistly.storage.engine import KeyValueBackend
from assistly.storage.settings import StorageSettings

from .store import LmdbStore

_SIZE = 4 * 2**30


class LmdbSettings(StorageSettings):
    """The settings of assistly, and two more: `lmdb_path` (LMDB_PATH) and `lmdb_map_size` (LMDB_MAP_SIZE)."""

    lmdb_path: Path = Field(Path("data/lmdb"), description="the path of a folder")
    lmdb_map_size: int = Field(_SIZE, ge=2**20, description="a number of bytes, 1048576 or more")


class LmdbBackend(KeyValueBackend):
    """Everything in one LMDB folder, which is made where there is none.

    `map_size` is how large it may grow, in bytes. Processes that share the folder give the same size.
    """

    writers = 1  # A commit waits for the disk, one after the other: writes that wait meanwhile go together.

    def __init__(
        self, path: str | PathLike[str], *, map_size: int = _SIZE, auto_migrate: bool = True
    ) -> None:
        self._path = Path(path).absolute()
        super().__init__(LmdbStore(self._path, map_size), auto_migrate=auto_migrate)

    def __repr__(self) -> str:
        return f"LmdbBackend({str(self._path)!r})"


def open_lmdb(settings: LmdbSettings) -> LmdbBackend:
    """The entry point: what STORAGE_ENGINE=lmdb opens."""
    return LmdbBackend(
        settings.lmdb_path, map_size=settings.lmdb_map_size, auto_migrate=settings.auto_migrate
    )
