"""The contract suite: what an engine proves itself with.

    from assistly.storage.testing import StorageContract

    class TestMyEngine(StorageContract):
        @pytest.fixture
        def backend(self) -> Iterator[StorageBackend]:
            backend = MyBackend()
            yield backend
            backend.close()

`backend` may have any scope: the suite empties it before each test. `MachineContract` drives it
beside a model; `LifecycleContract` needs a second fixture, `new_backend`. The suite needs pytest
and hypothesis, from the extra `test`.
"""

from __future__ import annotations

from pkgutil import iter_modules

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))

from .contract import StorageContract  # noqa: E402 - its asserts are rewritten only from here on
from .fixtures import Contract, FakeClock, empty, open_for_test  # noqa: E402
from .lifecycle_contract import LifecycleContract  # noqa: E402
from .machines import MachineContract  # noqa: E402

__all__ = [
    "Contract",
    "FakeClock",
    "LifecycleContract",
    "MachineContract",
    "StorageContract",
    "empty",
    "open_for_test",
]
