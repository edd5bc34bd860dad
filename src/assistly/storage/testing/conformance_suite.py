"""The test file that `conformance` runs: a class for each contract, on the engine of the configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from ..engine.protocol import StorageBackend
from . import ForkContract, LifecycleContract, MachineContract, ProcessContract, StorageContract
from .conformance import ENVIRONMENT, EnginePlaces, mark_leftovers
from .engine_spec import EngineSpec
from .fixtures import Contract, empty
from .race_contract import RaceContract


def contracts() -> list[type]:
    """The classes that have tests of their own, in the order of the reports."""
    parts = [kind for whole in (StorageContract, RaceContract) for kind in whole.__mro__]
    plain = [kind for kind in parts if issubclass(kind, Contract) and _has_tests(kind)]
    return [*plain, LifecycleContract, ForkContract, ProcessContract, MachineContract]


def _has_tests(kind: type) -> bool:
    return any(name.startswith("test_") for name in vars(kind))


def title(contract: type) -> str:
    """The name of a contract in reports."""
    return contract.__name__.removesuffix("Contract")


def _places() -> EnginePlaces:
    given = json.loads(os.environ[ENVIRONMENT])
    return EnginePlaces(given["engine"], given["settings"], given["folder"])


@pytest.fixture(scope="session")
def places() -> EnginePlaces:
    return _places()


@pytest.fixture(scope="session")
def session_spec(places: EnginePlaces) -> EngineSpec:
    return places.new()


@pytest.fixture(scope="session")
def backend(session_spec: EngineSpec) -> Iterator[StorageBackend]:
    backend = session_spec.open()
    yield backend
    # An engine that does not conform may refuse; the report says enough.
    with suppress(Exception):
        empty(backend)
        mark_leftovers(backend)
    backend.close()


class OnTheEngine:
    """The fixtures of the contracts."""

    @pytest.fixture
    def engine_spec(self, session_spec: EngineSpec) -> EngineSpec:
        return session_spec

    @pytest.fixture
    def new_engine_spec(self, places: EnginePlaces) -> Callable[[], EngineSpec]:
        if not places.are_many:
            pytest.skip("the settings name one place only: put {place} or {name} into one of them")
        return places.new

    @pytest.fixture
    def new_backend(self, new_engine_spec: Callable[[], EngineSpec]) -> Callable[[], StorageBackend]:
        return lambda: new_engine_spec().open()


if ENVIRONMENT in os.environ:
    globals().update(
        {
            f"Test{title(contract)}": type(f"Test{title(contract)}", (OnTheEngine, contract), {})
            for contract in contracts()
        }
    )
