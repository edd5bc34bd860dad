"""The contract of key-value stores can fail: each of these stores has one bug, which it must find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from assistly.storage.testing import OrderedStoreContract
from contract.mutants.ordered import MUTANTS, Place, SharedStore
from contract.mutants.running import failed_classes

SUITE = Path(__file__).parent / "mutants" / "ordered_suite.py"


class TestWithoutABug(OrderedStoreContract):
    @pytest.fixture
    def new_store(self) -> Callable[[], SharedStore]:
        place = Place()
        return lambda: SharedStore(place)

    @pytest.fixture
    def impatient_store(self, other: SharedStore) -> SharedStore:
        other.seconds = 0.2
        return other


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the mutants on which a test failed."""
    return failed_classes(SUITE, tmp_path_factory.mktemp("mutants"))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_contract_finds(mutant: type[SharedStore], found: set[str]) -> None:
    assert mutant.__name__ in found
