"""The engines that can be simulated, each opened without data for every seed."""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from assistly.storage import MemoryBackend, PostgresBackend, SqliteBackend

_IN_MEMORY = Path("/dev/shm")


def _parent() -> Path:
    return _IN_MEMORY if _IN_MEMORY.is_dir() else Path(tempfile.gettempdir())


def _prefix(process: int) -> str:
    return f"assistly-simulation-{process}-"


def remove_folders(process: int) -> None:
    """Remove the folders of a process that was killed."""
    for folder in _parent().glob(f"{_prefix(process)}*"):
        shutil.rmtree(folder, ignore_errors=True)


class Engine(ABC):
    """An engine by its name."""

    name: str

    @abstractmethod
    def make(self) -> Any:
        """A backend without data."""

    def clean(self) -> None:  # noqa: B027 - not every engine leaves something
        """Remove what a seed has left."""

    def close(self) -> None:  # noqa: B027
        """Remove everything."""

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Open a backend for one seed."""
        backend = self.make()
        try:
            yield backend
        finally:
            backend.close()
            self.clean()


class MemoryEngine(Engine):
    """In this process."""

    name = "memory"

    def make(self) -> Any:
        return MemoryBackend()


class SqliteEngine(Engine):
    """In a file, where possible one that is never written to a disk."""

    name = "sqlite"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=_prefix(os.getpid()), dir=_parent()))
        self._template = self._folder / "template.db"
        self._path = self._folder / "simulated.db"
        with_schema = SqliteBackend(self._template)
        with_schema.ping()
        with_schema.close()

    def make(self) -> Any:
        self.clean()
        shutil.copyfile(self._template, self._path)
        return SqliteBackend(self._path, busy_timeout=timedelta(seconds=1))

    def clean(self) -> None:
        for path in self._folder.glob("simulated.db*"):
            path.unlink()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class PostgresEngine(Engine):
    """On a server of its own, or the one of `url`; each seed has a schema of its own."""

    name = "postgres"

    def __init__(self, url: str | None = None) -> None:
        self._server: Any = None
        if url is None:
            # Imported here: a simulation of the other engines needs no server.
            parent = (__package__ or "").rpartition(".")[0]
            module = import_module(f"{parent}.postgres_server".removeprefix("."))
            self._server = module.TemporaryServer()
            url = self._server.url
        self.url = url
        self._schema = ""

    def make(self) -> Any:
        self._schema = f"simulated_{uuid4().hex[:16]}"
        return PostgresBackend(self.url, schema=self._schema)

    def clean(self) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'DROP SCHEMA IF EXISTS "{self._schema}" CASCADE'.encode())

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


def open_engine(name: str, url: str | None = None) -> Engine:
    """The engine of this name."""
    if name == "memory":
        return MemoryEngine()
    if name == "sqlite":
        return SqliteEngine()
    return PostgresEngine(url)
