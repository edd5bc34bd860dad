"""The contract of stores on each mutant. `test_store_mutants` runs this file in a pytest of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from assistly.storage.testing import OrderedStoreContract

from .ordered import MUTANTS, Place, SharedStore


def contract_on(mutant: type[SharedStore]) -> type[OrderedStoreContract]:
    def new_store(self: OrderedStoreContract) -> Callable[[], SharedStore]:
        place = Place()
        return lambda: mutant(place)

    def impatient_store(self: OrderedStoreContract, other: SharedStore) -> SharedStore:
        other.seconds /= 50
        return other

    fixtures = {function.__name__: pytest.fixture(function) for function in (new_store, impatient_store)}
    return type(f"Test{mutant.__name__}", (OrderedStoreContract,), fixtures)


globals().update({f"Test{mutant.__name__}": contract_on(mutant) for mutant in MUTANTS})
