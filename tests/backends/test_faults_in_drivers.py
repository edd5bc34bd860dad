"""Each operation on each engine, with a fault at its first statement, at its second, and so on.

After each: all of it is written or nothing, the error says which, no transaction or lock is left open, and
the next call works.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from assistly.storage.engines.memory import _MemoryStore
from backends.fault_maps import MAP_FAULTS, FaultyKeyValueEngine
from backends.fault_operations import OPERATIONS

EACH = pytest.mark.parametrize("name", OPERATIONS)


class TestMemory:
    @pytest.fixture
    def engine(self) -> Iterator[FaultyKeyValueEngine]:
        with closing(FaultyKeyValueEngine(_MemoryStore)) as engine:
            yield engine

    @EACH
    def test_each_step_of_the_map(self, engine: FaultyKeyValueEngine, name: str) -> None:
        for fault in MAP_FAULTS:
            engine.run_all(name, fault)
