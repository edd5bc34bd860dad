"""Runs all tests in steps with a name each: `python -m tests`.

The contract suite runs first, once for each engine, and then everything else. `--engine NAME`, which can be
repeated, runs the contract on those engines alone; `--rest` runs what is not an engine's contract.
Arguments after `--` are handed to pytest.

Contracts run side by side, in one process each, since every further process collects all tests anew, which
takes nearly as long as a contract. A single step is divided among processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CONTRACTS = {
    "postgres": "tests/contract/test_postgres_contract.py",
    "memory": "tests/contract/test_memory_contract.py",
    "sqlite": "tests/contract/test_sqlite_contract.py",
    "lmdb": "tests/examples/test_lmdb_engine.py",
}
"""The file with the contract of each engine, the slowest first. The others are in the step of the rest."""

_MOST_PROCESSES = 4
_SLOWEST = 20


@dataclass(frozen=True)
class Step:
    name: str
    arguments: Sequence[str]


@dataclass(frozen=True)
class Result:
    step: Step
    code: int
    seconds: float
    counts: Counter[str]
    times: Sequence[tuple[float, str]] = ()
    """How many seconds each test took, with its name."""


def contract(engine: str) -> Step:
    return Step(f"contract on {engine}", [CONTRACTS[engine]])


def rest() -> Step:
    return Step("everything else", ["tests", *(f"--ignore={path}" for path in CONTRACTS.values())])


def environment(bytecode: str) -> dict[str, str]:
    """The variables of this process, with bytecode kept in the folder `bytecode`.

    Hundreds of processes would compile the tests and the package anew where PYTHONDONTWRITEBYTECODE is set,
    as it is in many containers.
    """
    variables = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


def run(step: Step, options: Sequence[str], variables: Mapping[str, str], *, streams: bool = True) -> Result:
    """Run pytest. With `streams` its output is shown as it comes, otherwise when pytest has ended."""
    title = f"\n=== {step.name} ==="
    if streams:
        print(title, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *step.arguments, f"--junit-xml={report}", *options]
        ended = subprocess.run(
            command,
            env=variables,
            stdout=None if streams else subprocess.PIPE,
            stderr=None if streams else subprocess.STDOUT,
            text=True,
            check=False,
        )
        tree = ElementTree.parse(report).getroot() if report.exists() else ElementTree.Element("none")
    if not streams:
        print(f"{title}\n{ended.stdout}", end="", flush=True)
    return Result(step, ended.returncode, time.monotonic() - began, _counts(tree), _times(tree))


def run_all(
    steps: Sequence[Step], options: Sequence[str], variables: Mapping[str, str], processes: int
) -> list[Result]:
    """Run the contracts side by side, and then what is divided among processes."""
    *contracts, last = steps
    divided = [*options, "-n", str(processes), "--dist", "worksteal"]
    if contracts:
        print(f"{len(contracts)} contracts run first, and each is shown when it has ended", flush=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = [*pool.map(lambda step: run(step, options, variables, streams=False), contracts)]
    return [*results, run(last, divided, variables)]


def _times(report: ElementTree.Element) -> list[tuple[float, str]]:
    return [
        (float(case.attrib["time"]), f"{case.attrib['classname']}.{case.attrib['name']}")
        for case in report.iter("testcase")
    ]


def _counts(report: ElementTree.Element) -> Counter[str]:
    """How many tests passed, failed and were skipped."""
    counts: Counter[str] = Counter()
    for suite in report.iter("testsuite"):
        tests, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
        failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
        counts.update(passed=tests - failed - skipped, failed=failed, skipped=skipped)
    return counts


def summary(results: Sequence[Result], seconds: float) -> str:
    lines = []
    total: Counter[str] = Counter()
    for each in results:
        verdict = "FAILED" if each.code else "ok"
        lines.append(f"{verdict:8}{each.step.name:24}{_text(each.counts)} in {each.seconds:.0f} s")
        total.update(each.counts)
    times = sorted((time for each in results for time in each.times), reverse=True)
    slowest = [f"{took:8.1f} s {name}" for took, name in times[:_SLOWEST]]
    return "\n".join(
        [
            "",
            "=== the slowest tests ===",
            *slowest,
            "",
            "=== summary ===",
            *lines,
            f"=== {_text(total)} in {seconds:.2f}s ===",
        ]
    )


def _text(counts: Counter[str]) -> str:
    shown = [f"{counts[name]} {name}" for name in ("failed", "passed", "skipped") if counts[name]]
    return ", ".join(shown) or "no tests"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests", description="Run all tests, in steps.")
    parser.add_argument(
        "--engine", action="append", choices=CONTRACTS, help="only the contract on this engine; repeatable"
    )
    parser.add_argument("--rest", action="store_true", help="only what is no engine's contract")
    parser.add_argument(
        "--processes",
        type=int,
        default=min((os.cpu_count() or 1) + 1, _MOST_PROCESSES),
        help="how many processes run tests at once (default: one more than there are processors, at most 4)",
    )
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    given = parser.parse_args(arguments)
    steps = [contract(engine) for engine in given.engine or ()]
    if given.rest:
        steps.append(rest())
    if not steps:
        steps = [*(contract(engine) for engine in CONTRACTS), rest()]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as bytecode:
        results = run_all(steps, ["-q", *given.pytest], environment(bytecode), given.processes)
    print(summary(results, time.monotonic() - began))
    return 0 if not any(each.code for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
