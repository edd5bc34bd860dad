from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from assistly.storage import PostgresBackend, StorageBackend
from assistly.storage.testing import LifecycleContract, StorageContract


@pytest.fixture(scope="module")
def backend(database_url: str, new_schema: Callable[[], str]) -> Iterator[StorageBackend]:
    backend = PostgresBackend(database_url, schema=new_schema())
    yield backend
    backend.close()


class TestPostgres(StorageContract):
    pass


class TestPostgresThroughCursors(StorageContract):
    """As with a driver that the fast path was not tested with."""

    @pytest.fixture(scope="class")
    def backend(self, database_url: str, new_schema: Callable[[], str]) -> Iterator[StorageBackend]:
        backend = PostgresBackend(database_url, schema=new_schema(), fast_path=False)
        yield backend
        backend.close()


class TestPostgresLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self, database_url: str, new_schema: Callable[[], str]) -> Callable[[], StorageBackend]:
        return lambda: PostgresBackend(database_url, schema=new_schema())
