from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from assistly.storage import MemoryBackend, StorageBackend
from assistly.storage.engines.memory import _MemoryStore
from assistly.storage.testing import (
    ForkContract,
    LifecycleContract,
    MachineContract,
    OrderedStoreContract,
    ProcessContract,
    RaceContract,
    StorageContract,
)


@pytest.fixture(scope="module")
def backend() -> Iterator[StorageBackend]:
    backend = MemoryBackend()
    yield backend
    backend.close()


@pytest.fixture
def impatient_backend(monkeypatch: pytest.MonkeyPatch) -> MemoryBackend:
    monkeypatch.setattr("assistly.storage.engine.keyvalue.backend.LOCK_SECONDS", 0.2)
    return MemoryBackend()


class TestMemory(StorageContract):
    pass


class TestMemoryLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self) -> Callable[[], StorageBackend]:
        return MemoryBackend


class TestMemoryStore(OrderedStoreContract):
    @pytest.fixture
    def new_store(self) -> Callable[[], _MemoryStore]:
        return _MemoryStore


class TestMemoryForks(ForkContract):
    pass


class TestMemoryProcesses(ProcessContract):
    pass


class TestMemoryRaces(RaceContract):
    pass


class TestMemoryMachines(MachineContract):
    MACHINE_EXAMPLES = 20
