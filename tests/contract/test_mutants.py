"""The suite can fail: each of these engines has one bug, which it must find.

The engine without a bug goes through all of the suite. One with a bug goes through the contract that has
to do with it, and some through a machine, each up to the first failure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from assistly.storage.testing import (
    ForkContract,
    LifecycleContract,
    MachineContract,
    RaceContract,
    StorageContract,
)
from assistly.storage.testing.fixtures import examples
from assistly.storage.testing.machines import (
    ApprovalMachine,
    Engine,
    IdempotencyMachine,
    LockMachine,
    LockstepMachine,
    LogMachine,
    PausedQueueMachine,
    PlatformMachine,
    QueueMachine,
    SessionMachine,
)
from contract.mutants import catalog
from contract.mutants.running import failed_classes
from contract.mutants.stores import NaiveEngine
from contract.mutants.suite import CONCERNED

SUITE = Path(__file__).parent / "mutants" / "suite.py"

FOUND_SOON = ("ExtendKeepsUpdatedAt", "FirstBeginPublishKeepsUpdatedAt")

MACHINES: dict[type[NaiveEngine], type[LockstepMachine]] = {
    catalog.CapsKeepTheOldest: ApprovalMachine,
    catalog.PrunesWhatIsExactlyThatOld: ApprovalMachine,
    catalog.TiesBrokenByKey: ApprovalMachine,
    catalog.FloatsComeBackAsIntegers: SessionMachine,
    catalog.SessionsLoseUpdates: SessionMachine,
    catalog.CompletesWithoutToken: IdempotencyMachine,
    catalog.ReleaseForgetsTheFence: LockMachine,
    catalog.RollbackLeavesNonces: LogMachine,
    catalog.PausesNeverEnd: PausedQueueMachine,
    catalog.DocumentsKeepTheirDate: PlatformMachine,
    catalog.RollbackLeavesDocuments: PlatformMachine,
    **dict.fromkeys(
        [
            catalog.GapIncludesItsEdge,
            catalog.SettlesWithoutFence,
            catalog.ExtendsWhatRanOut,
            catalog.ClaimsInIdOrder,
            catalog.ClaimIgnoresItsLimit,
            catalog.HandsOutLateJobs,
            catalog.ReplayKeepsRetries,
            catalog.CancelledJobsWait,
            catalog.FailuresLoseTheCheckpoint,
            *(one for one in catalog.UNDATED if one.__name__ in FOUND_SOON),
        ],
        QueueMachine,
    ),
}


class TestWithoutABug(StorageContract, LifecycleContract, ForkContract, RaceContract, MachineContract):
    MACHINE_EXAMPLES = 5

    @pytest.fixture
    def backend(self) -> NaiveEngine:
        return NaiveEngine()

    @pytest.fixture
    def impatient_backend(self, monkeypatch: pytest.MonkeyPatch) -> NaiveEngine:
        monkeypatch.setattr("contract.mutants.engine._LOCK_SECONDS", 0.2)
        return NaiveEngine()

    @pytest.fixture
    def new_backend(self) -> Callable[[], NaiveEngine]:
        return NaiveEngine


@pytest.fixture(scope="module")
def found_by_the_contract(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the mutants on which a test failed."""
    return failed_classes(SUITE, tmp_path_factory.mktemp("mutants"))


@pytest.mark.parametrize("mutant", CONCERNED)
def test_the_contract_finds(mutant: type[NaiveEngine], found_by_the_contract: set[str]) -> None:
    assert mutant.__name__ in found_by_the_contract


def test_every_mutant_is_tried() -> None:
    assert {*NaiveEngine.__subclasses__()} == CONCERNED.keys()


@pytest.mark.parametrize("mutant", MACHINES)
def test_a_machine_finds(mutant: type[NaiveEngine]) -> None:
    same_each_time = settings(examples(500), derandomize=True, database=None, phases=[Phase.generate])

    def fresh() -> LockstepMachine:
        return MACHINES[mutant](Engine("naive", mutant()))

    with pytest.raises(AssertionError, match="naive says"):
        run_state_machine_as_test(fresh, settings=same_each_time)  # type: ignore[arg-type]
