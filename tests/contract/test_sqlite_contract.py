from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
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


class TestSqlite(StorageContract):
    pass


class TestSqliteLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self, tmp_path: Path) -> Callable[[], StorageBackend]:
        numbers = count()
        return lambda: SqliteBackend(tmp_path / f"{next(numbers)}.db")


def test_a_write_waits_for_10_seconds(engine_spec: EngineSpec) -> None:
    """For a transaction on other connections, as those of another process are."""
    with closing(engine_spec.open()) as holder, closing(engine_spec.open()) as waiter:
        waiter.ping()
        with holder.transaction() as tx:
            tx.nonces.register("held", 1)
            began = monotonic()
            with pytest.raises(StorageUnavailable):
                waiter.nonces.register("waiting", 1)
            assert 8 < monotonic() - began < 16
        assert waiter.nonces.register("waiting", 1) is True


class TestSqliteForks(ForkContract):
    pass


class TestSqliteProcesses(ProcessContract):
    pass


class TestSqliteRaces(RaceContract):
    pass


class TestSqliteMachines(MachineContract):
    MACHINE_EXAMPLES = 12
