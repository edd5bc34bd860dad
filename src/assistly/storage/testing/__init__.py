"""The contract suite, which every engine must pass.

Derive a class from it::

    from assistly.storage.testing import StorageContract

    class TestMyEngine(StorageContract):
        @pytest.fixture(scope="module")
        def backend(self) -> Iterator[StorageBackend]:
            backend = MyBackend("/tmp/place")
            yield backend
            backend.close()

Needs pytest and hypothesis: `pip install 'assistly[contract]'`. The classes, and their fixtures:

- `StorageContract`: all operations. `backend`, of any scope: the suite deletes all its data before each test.
- `LifecycleContract`: opening and closing. `new_backend`: a function that opens a new, empty engine.
- `ForkContract`: storages in a forked child. `backend`; for an engine with `multi_process` also `engine_spec`
  and `new_engine_spec`.
- `ProcessContract`: several processes on the same data. `backend` and `engine_spec`.
- `RaceContract`: threads and processes that compete. `backend` and `engine_spec`.
- `MachineContract`: random programs, compared with a model. `backend` and, for a durable engine,
  `engine_spec`.
- `OrderedStoreContract`: the store of a `KeyValueBackend`, without the engine. `new_store`: a function that
  returns another store on the same data at each call.

The fixtures may be defined in the class, in the module or in a `conftest.py`. `engine_spec` is an
`EngineSpec`: a picklable description that opens another backend on the data of `backend`, in this process
or another. `new_engine_spec` is a function that returns one for new, empty data that nothing has opened
yet. `impatient_backend`, which may be left out, is an empty engine whose calls wait for locks for a fraction
of a second: one test waits until a call gives up. Tests are skipped by what the engine declares
(`in_process`, `durable`, `multi_process`), never by its name.

When a machine fails, Hypothesis searches for the smallest program that fails, which takes minutes. While you
write an engine, set HYPOTHESIS_PROFILE=first: machines and properties then stop at the first failure. `ci`
runs the same examples each time, and `thorough` runs twenty times as many.

`assistly.storage.testing.conformance` runs all of it on an engine, and reports.
"""

from __future__ import annotations

from pkgutil import iter_modules

try:
    import hypothesis  # noqa: F401 - the modules below need it
    import pytest
except ImportError as error:
    raise ImportError(
        f"assistly.storage.testing needs pytest and hypothesis ({error}): "
        "python -m pip install 'assistly[contract]'",
        name=error.name,
    ) from None

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))

from .contract import StorageContract  # noqa: E402 - its asserts are rewritten only from here on
from .engine_spec import EngineSpec  # noqa: E402
from .fixtures import Contract, FakeClock, empty, open_for_test  # noqa: E402
from .fork_contract import ForkContract  # noqa: E402
from .lifecycle_contract import LifecycleContract  # noqa: E402
from .machines import MachineContract  # noqa: E402
from .process_contract import ProcessContract  # noqa: E402
from .race_contract import RaceContract  # noqa: E402
from .store_contract import OrderedStoreContract  # noqa: E402

__all__ = [
    "Contract",
    "EngineSpec",
    "FakeClock",
    "ForkContract",
    "LifecycleContract",
    "MachineContract",
    "OrderedStoreContract",
    "ProcessContract",
    "RaceContract",
    "StorageContract",
    "empty",
    "open_for_test",
]
