from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from itertools import count
from pathlib import Path
from time import monotonic

import pytest

from assistly.storage import SqliteBackend, StorageBackend, StorageUnavailable
from assistly.storage.testing import (
    EngineSpec,
    ForkContract,
    LifecycleContract,
    MachineContract,
    ProcessContract,
    RaceContract,
    StorageContract,
)

FACTORY = "assistly.storage:SqliteBackend"
SHORT = timedelta(seconds=0.3)


@pytest.fixture(scope="module")
def engine_spec(tmp_path_factory: pytest.TempPathFactory) -> EngineSpec:
    path = tmp_path_factory.mktemp("sqlite") / "contract.db"
    return EngineSpec(FACTORY, (str(path),))


@pytest.fixture
def new_engine_spec(tmp_path: Path) -> Callable[[], EngineSpec]:
    numbers = count()
    return lambda: EngineSpec(FACTORY, (str(tmp_path / f"new-{next(numbers)}.db"),))


@pytest.fixture(scope="module")
def backend(engine_spec: EngineSpec) -> Iterator[StorageBackend]:
    backend = engine_spec.open()
    yield backend
    backend.close()


@pytest.fixture
def impatient_backend(tmp_path: Path) -> Iterator[SqliteBackend]:
    with closing(SqliteBackend(tmp_path / "impatient.db", busy_timeout=SHORT)) as backend:
        yield backend


class TestSqlite(StorageContract):
    pass


class TestSqliteLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self, tmp_path: Path) -> Callable[[], StorageBackend]:
        numbers = count()
        return lambda: SqliteBackend(tmp_path / f"{next(numbers)}.db")


def test_a_write_waits_for_as_long_as_it_may(impatient_backend: SqliteBackend, tmp_path: Path) -> None:
    """For a transaction on other connections, as those of another process are."""
    with closing(SqliteBackend(impatient_backend.path)) as holder:
        impatient_backend.ping()
        with holder.transaction() as tx:
            tx.nonces.register("held", 1)
            began = monotonic()
            with pytest.raises(StorageUnavailable):
                impatient_backend.nonces.register("waiting", 1)
            assert SHORT.total_seconds() / 2 < monotonic() - began < 8
        assert impatient_backend.nonces.register("waiting", 1) is True


def test_a_write_may_wait_for_10_seconds(backend: SqliteBackend) -> None:
    database = backend._database
    assert database.read(lambda connection: connection.rows("PRAGMA busy_timeout")) == [(10_000,)]


class TestSqliteForks(ForkContract):
    pass


class TestSqliteProcesses(ProcessContract):
    pass


class TestSqliteRaces(RaceContract):
    pass


class TestSqliteMachines(MachineContract):
    MACHINE_EXAMPLES = 12
