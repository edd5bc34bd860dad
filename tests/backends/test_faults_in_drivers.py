"""Each operation on each engine, with a fault at its first statement, at its second, and so on.

After each: all of it is written or nothing, the error says which, no transaction or lock is left open, and
the next call works. The quick runs leave out some faults of each operation, the thorough ones none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib import import_module
from itertools import count
from pathlib import Path

import pytest

from assistly.storage.engines.memory import _MemoryStore
from backends.fault_maps import MAP_FAULTS, FaultyKeyValueEngine
from backends.fault_operations import OPERATIONS, states_of
from backends.fault_plan import DriverFault, FaultyEngine
from backends.fault_postgres import CUTS, FaultyPostgresEngine, server_errors
from backends.fault_sqlite import SQLITE_FAULTS, FaultySqliteEngine

EXAMPLE = Path(__file__).parents[2] / "examples" / "engines" / "lmdb"

EACH = pytest.mark.parametrize("name", OPERATIONS)
# Key-value engines do not say how large they are.
EACH_ON_MAPS = pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "sizes"])
THOROUGH = pytest.mark.parametrize(
    "thorough", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["quick", "thorough"]
)


def run(faulty: FaultyEngine, name: str, faults: Sequence[DriverFault], *, most: int | None) -> None:
    """With all faults at all statements, or with `most` faults at some, others for each operation."""
    if most is None:
        for fault in faults:
            faulty.run_all(name, fault, dense=10_000)
            faulty.run_all(name, fault, dense=10_000, cold=True)
        return
    first = [*OPERATIONS].index(name) * most
    for number in range(first, first + most):
        faulty.run_all(name, faults[number % len(faults)], dense=6, cold=number % 5 == 0)


@EACH_ON_MAPS
@THOROUGH
def test_memory(name: str, thorough: bool) -> None:
    with closing(FaultyKeyValueEngine(_MemoryStore)) as faulty:
        run(faulty, name, MAP_FAULTS, most=None if thorough else 1)


@pytest.fixture
def lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyKeyValueEngine]:
    pytest.importorskip("fcntl", reason="the example locks files as Unix does")
    pytest.importorskip("lmdb")
    monkeypatch.syspath_prepend(EXAMPLE)
    store = import_module("assistly_lmdb.store")
    numbers = count()
    with closing(
        FaultyKeyValueEngine(lambda: store.LmdbStore(tmp_path / str(next(numbers)), 2**24))
    ) as faulty:
        yield faulty
    for name in [name for name in sys.modules if name.startswith("assistly_lmdb")]:
        del sys.modules[name]


@EACH_ON_MAPS
@THOROUGH
def test_lmdb(lmdb: FaultyKeyValueEngine, name: str, thorough: bool) -> None:
    run(lmdb, name, MAP_FAULTS, most=None if thorough else 1)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySqliteEngine]:
    path = tmp_path_factory.mktemp("faults") / "faults.db"
    with pytest.MonkeyPatch.context() as patches, closing(FaultySqliteEngine(path, patches)) as faulty:
        yield faulty


@EACH
@THOROUGH
def test_sqlite(sqlite: FaultySqliteEngine, name: str, thorough: bool) -> None:
    run(sqlite, name, SQLITE_FAULTS, most=None if thorough else 3)


# Both make the same calls of the driver in the same transactions, so one of them is tried at each run.
@pytest.fixture(
    scope="module",
    params=[True, pytest.param(False, marks=pytest.mark.soak)],
    ids=["libpq", "cursor"],
)
def postgres(
    request: pytest.FixtureRequest, database_url: str, new_schema: Callable[[], str]
) -> Iterator[FaultyPostgresEngine]:
    with pytest.MonkeyPatch.context() as patches:
        faulty = FaultyPostgresEngine(database_url, new_schema(), patches, fast_path=request.param)
        with closing(faulty):
            yield faulty


@EACH
@THOROUGH
def test_postgres(postgres: FaultyPostgresEngine, name: str, thorough: bool) -> None:
    run(postgres, name, CUTS, most=None if thorough else 1 + postgres.fast_path)


@EACH
@THOROUGH
def test_errors_of_the_server(postgres: FaultyPostgresEngine, name: str, thorough: bool) -> None:
    run(postgres, name, server_errors(postgres.plan), most=None if thorough else 1)


def test_the_states() -> None:
    """What is compared comes from the memory engine, which must not be wrong itself."""
    whole = states_of("transaction").whole
    assert ([job["content"] for job in whole["jobs"]], whole["nonces"], len(whole["events"])) == (
        ["a"],
        ["a"],
        1,
    )
    assert len(states_of("prune").whole["events"]) == 1
