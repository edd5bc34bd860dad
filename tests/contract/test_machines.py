from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from assistly.storage import MemoryBackend, PostgresBackend, SqliteBackend, StorageBackend
from assistly.storage.testing import MachineContract


@pytest.fixture(scope="module")
def machine_schema(new_schema: Callable[[], str]) -> str:
    return new_schema()


class TestMemoryMachines(MachineContract):
    MACHINE_EXAMPLES = 40

    @pytest.fixture
    def backend(self) -> Iterator[StorageBackend]:
        with closing(MemoryBackend()) as backend:
            yield backend


class TestSqliteMachines(MachineContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[StorageBackend]:
        with closing(SqliteBackend(tmp_path / "machines.db")) as backend:
            yield backend

    @pytest.fixture
    def reopened(self, tmp_path: Path) -> Callable[[], StorageBackend]:
        return lambda: SqliteBackend(tmp_path / "machines.db")


class TestPostgresMachines(MachineContract):
    MACHINE_EXAMPLES = 15

    @pytest.fixture
    def backend(self, database_url: str, machine_schema: str) -> Iterator[StorageBackend]:
        with closing(PostgresBackend(database_url, schema=machine_schema)) as backend:
            yield backend

    @pytest.fixture
    def reopened(self, database_url: str, machine_schema: str) -> Callable[[], StorageBackend]:
        return lambda: PostgresBackend(database_url, schema=machine_schema)
