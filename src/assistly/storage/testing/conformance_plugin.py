"""A pytest plug-in that writes the outcome of each test to a file, for `conformance`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .conformance import ENVIRONMENT


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write one line for each test: the outcome of its call, or of the step that failed before the call."""
    if report.when != "call" and report.outcome == "passed":
        return
    kind, _, test = report.nodeid.rpartition("::")
    outcome = {
        "contract": kind.rpartition("::")[2].removeprefix("Test"),
        "test": test,
        "outcome": report.outcome,
        "message": _first_line(report),
        "seconds": report.duration,
    }
    path = json.loads(os.environ[ENVIRONMENT])["outcomes"]
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(outcome) + "\n")


def _first_line(report: pytest.TestReport) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longreprtext).partition("\n")[0]
