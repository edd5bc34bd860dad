"""The contract of key-value stores can fail: each of these stores has one bug, which it must find."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from assistly.storage.testing import OrderedStoreContract
from contract.mutants.ordered import MUTANTS, Place, SharedStore

SUITE = Path(__file__).parent / "mutants" / "ordered_suite.py"


class TestWithoutABug(OrderedStoreContract):
    @pytest.fixture
    def new_store(self) -> Callable[[], SharedStore]:
        place = Place()
        return lambda: SharedStore(place)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the mutants on which a test failed."""
    report = tmp_path_factory.mktemp("mutants") / "report.xml"
    options = ["-q", "--tb=no", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(SUITE)],
        env={**os.environ, "HYPOTHESIS_PROFILE": "ci"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    cases = ElementTree.parse(report).iter("testcase")
    failed = [case.attrib["classname"] for case in cases if case.find("failure") is not None]
    return {name.rpartition(".Test")[2] for name in failed}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_contract_finds(mutant: type[SharedStore], found: set[str]) -> None:
    assert mutant.__name__ in found
