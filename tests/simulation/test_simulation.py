"""Some seeds of the simulation, and bugs that it has to find. `python -m tests.simulation` runs more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulation.command import main
from simulation.engines import Engine, open_engine
from simulation.planted import PLANTED, planted
from simulation.run import run_seed

ROOT = Path(__file__).parents[2]

SEEDS = {"memory": 20, "sqlite": 5}

QUICKLY_FOUND = {
    "begin-publish-is-skipped": 0,
    "rescue-ignores-that-publishing-began": 0,
}


@pytest.fixture(scope="module")
def memory() -> Iterator[Engine]:
    engine = open_engine("memory")
    yield engine
    engine.close()


@pytest.mark.parametrize("name", SEEDS)
def test_no_rule_is_broken(name: str) -> None:
    engine = open_engine(name)
    try:
        for seed in range(SEEDS[name]):
            failure = run_seed(engine, seed)
            assert failure is None, str(failure)
    finally:
        engine.close()


@pytest.mark.parametrize("bug", QUICKLY_FOUND)
def test_a_planted_bug_is_found(memory: Engine, bug: str) -> None:
    with planted(bug):
        failure = run_seed(memory, QUICKLY_FOUND[bug])
    assert failure is not None


def test_a_seed_is_replayed_exactly(memory: Engine) -> None:
    with planted("updates-of-sessions-are-two-steps"):
        first, second = (run_seed(memory, QUICKLY_FOUND["updates-of-sessions-are-two-steps"]) for _ in "ab")
    assert first is not None
    assert first == second
    assert first.history


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["memory", "sqlite", "postgres"])
@pytest.mark.timeout(600)
def test_many_seeds(engine: str, database_url: str) -> None:
    seeds = {"memory": 2000, "sqlite": 300, "postgres": 20}[engine]
    assert main(["--engine", engine, "--seeds", str(seeds), "--url", database_url]) == 0
