from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from assistly.storage import SqliteBackend, StorageBackend
from assistly.storage.testing import LifecycleContract, StorageContract


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageBackend]:
    backend = SqliteBackend(tmp_path_factory.mktemp("sqlite") / "contract.db")
    yield backend
    backend.close()


class TestSqlite(StorageContract):
    pass


class TestSqliteLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self, tmp_path: Path) -> Callable[[], StorageBackend]:
        numbers = count()
        return lambda: SqliteBackend(tmp_path / f"{next(numbers)}.db")
