"""Each operation on each engine, with a fault at its first statement, at its second, and so on.

After each: all of it is written or nothing, the error says which, no transaction or lock is left open, and
the next call works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from assistly.storage.engines.memory import _MemoryStore
from backends.fault_maps import MAP_FAULTS, FaultyKeyValueEngine
from backends.fault_operations import OPERATIONS
from backends.fault_postgres import CUTS, FaultyPostgresEngine, server_errors
from backends.fault_sqlite import SQLITE_FAULTS, FaultySqliteEngine

EACH = pytest.mark.parametrize("name", OPERATIONS)


@EACH
def test_memory(name: str) -> None:
    with closing(FaultyKeyValueEngine(_MemoryStore)) as faulty:
        for fault in MAP_FAULTS:
            faulty.run_all(name, fault)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySqliteEngine]:
    path = tmp_path_factory.mktemp("faults") / "faults.db"
    with pytest.MonkeyPatch.context() as patches, closing(FaultySqliteEngine(path, patches)) as faulty:
        yield faulty


@EACH
def test_sqlite(sqlite: FaultySqliteEngine, name: str) -> None:
    for fault in SQLITE_FAULTS:
        sqlite.run_all(name, fault)
    sqlite.run_all(name, SQLITE_FAULTS[0], cold=True)


@pytest.fixture(scope="module", params=[True, False], ids=["libpq", "cursor"])
def postgres(
    request: pytest.FixtureRequest, database_url: str, new_schema: Callable[[], str]
) -> Iterator[FaultyPostgresEngine]:
    with pytest.MonkeyPatch.context() as patches:
        faulty = FaultyPostgresEngine(database_url, new_schema(), patches, fast_path=request.param)
        with closing(faulty):
            yield faulty


@EACH
def test_postgres(postgres: FaultyPostgresEngine, name: str) -> None:
    for fault in CUTS:
        postgres.run_all(name, fault)
    postgres.run_all(name, CUTS[0], cold=True)


@EACH
def test_errors_of_the_server(postgres: FaultyPostgresEngine, name: str) -> None:
    for fault in server_errors(postgres.plan):
        postgres.run_all(name, fault)
