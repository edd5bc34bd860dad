"""Runs a suite on all its mutants, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree


def failed_classes(suite: Path, folder: Path) -> set[str]:
    """The names of the mutants on which a test failed: each has a class `Test` and its name."""
    report = folder / "report.xml"
    options = ["-q", "--tb=no", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(suite)],
        env={**os.environ, "HYPOTHESIS_PROFILE": "ci"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    cases = ElementTree.parse(report).iter("testcase")
    failed = [case.attrib["classname"] for case in cases if case.find("failure") is not None]
    return {name.rpartition(".Test")[2] for name in failed}
