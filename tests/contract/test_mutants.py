"""The suite can fail: each of these engines has one bug, which it must find.

The engine without a bug goes through all of the suite. One with a bug goes through the part of
the contract, and through the machine, that have to do with it, each up to the first failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from assistly.storage.testing import MachineContract, StorageContract
from assistly.storage.testing.fixtures import examples
from assistly.storage.testing.machines import (
    ApprovalMachine,
    Engine,
    IdempotencyMachine,
    LockMachine,
    LogMachine,
    QueueMachine,
    SessionMachine,
    SideBySide,
)
from contract.mutants import bugs
from contract.mutants.bugs import BUGS
from contract.mutants.stores import PlainEngine

PLANTED = Path(__file__).parent / "mutants"

OTHER_MACHINES: dict[type[PlainEngine], type[SideBySide]] = {
    bugs.CapsKeepTheOldest: ApprovalMachine,
    bugs.PrunesWhatIsExactlyThatOld: ApprovalMachine,
    bugs.TiesBrokenByKey: ApprovalMachine,
    bugs.FloatsComeBackAsIntegers: SessionMachine,
    bugs.SessionsLoseUpdates: SessionMachine,
    bugs.CompletesWithoutToken: IdempotencyMachine,
    bugs.ReleaseForgetsTheFence: LockMachine,
    bugs.RollbackLeavesNonces: LogMachine,
}


class TestWithoutABug(StorageContract, MachineContract):
    MACHINE_EXAMPLES = 10

    @pytest.fixture
    def backend(self) -> PlainEngine:
        return PlainEngine()


@pytest.fixture(scope="module")
def found_by_the_contract(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the bugs on which a test failed."""
    report = tmp_path_factory.mktemp("mutants") / "report.xml"
    options = ["-q", "--tb=no", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(PLANTED / "suite.py")],
        env={**os.environ, "HYPOTHESIS_PROFILE": "ci"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    cases = ElementTree.parse(report).iter("testcase")
    failed = [case.attrib["classname"] for case in cases if case.find("failure") is not None]
    return {name.rpartition(".Test")[2] for name in failed}


@pytest.mark.parametrize("bug", BUGS)
def test_the_contract_finds(bug: type[PlainEngine], found_by_the_contract: set[str]) -> None:
    assert bug.__name__ in found_by_the_contract


@pytest.mark.parametrize("bug", BUGS)
def test_a_machine_finds(bug: type[PlainEngine]) -> None:
    machine = OTHER_MACHINES.get(bug, QueueMachine)
    same_each_time = settings(examples(500), derandomize=True, database=None, phases=[Phase.generate])

    def fresh() -> SideBySide:
        return machine(Engine("naive", bug()))

    with pytest.raises(AssertionError, match="naive says"):
        run_state_machine_as_test(fresh, settings=same_each_time)  # type: ignore[arg-type]
