from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from assistly.storage import PostgresBackend, StorageBackend
from assistly.storage.testing import (
    EngineSpec,
    ForkContract,
    LifecycleContract,
    MachineContract,
    ProcessContract,
    RaceContract,
    StorageContract,
)

FACTORY = "assistly.storage:PostgresBackend"


@pytest.fixture(scope="module")
def postgres_spec(database_url: str, new_schema: Callable[[], str]) -> EngineSpec:
    return EngineSpec(FACTORY, (database_url,), {"schema": new_schema()})


@pytest.fixture(scope="module")
def backend(postgres_spec: EngineSpec) -> Iterator[StorageBackend]:
    backend = postgres_spec.open()
    yield backend
    backend.close()


class TestPostgres(StorageContract):
    pass


@pytest.fixture(scope="module")
def backend_with_cursors(database_url: str, new_schema: Callable[[], str]) -> Iterator[StorageBackend]:
    backend = PostgresBackend(database_url, schema=new_schema(), fast_path=False)
    yield backend
    backend.close()


class TestPostgresThroughCursors(StorageContract):
    """As with a driver that the fast path was not tested with."""

    @pytest.fixture
    def backend(self, backend_with_cursors: StorageBackend) -> StorageBackend:
        return backend_with_cursors


class TestPostgresLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self, database_url: str, new_schema: Callable[[], str]) -> Callable[[], StorageBackend]:
        return lambda: PostgresBackend(database_url, schema=new_schema())


class PostgresSchema:
    """The schema of the module's backend, opened again."""

    @pytest.fixture
    def engine_spec(self, postgres_spec: EngineSpec) -> EngineSpec:
        return postgres_spec

    @pytest.fixture
    def new_engine_spec(self, database_url: str, new_schema: Callable[[], str]) -> Callable[[], EngineSpec]:
        return lambda: EngineSpec(FACTORY, (database_url,), {"schema": new_schema()})


class TestPostgresForks(PostgresSchema, ForkContract):
    pass


class TestPostgresProcesses(PostgresSchema, ProcessContract):
    pass


class TestPostgresRaces(PostgresSchema, RaceContract):
    pass


class TestPostgresMachines(PostgresSchema, MachineContract):
    MACHINE_EXAMPLES = 15
