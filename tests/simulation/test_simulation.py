"""Some seeds of the simulation, and bugs that it has to find. `python -m tests.simulation` runs more."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from simulation.command import main
from simulation.engines import Engine, open_engine
from simulation.planted import PLANTED, planted
from simulation.run import Failure, run_seed

SEEDS = {"memory": 12, "sqlite": 3}
SECONDS = 60.0

# Found by the first seeds: they show in the default tests that the simulation can fail.
FOUND_AT_ONCE = (
    "begin-publish-is-skipped",
    "an-unknown-outcome-is-retried",
    "rescue-ignores-that-publishing-began",
    "equal-keys-in-a-batch-are-all-acquired",
    "a-late-job-is-not-looked-for",
    "wake-ups-are-lost",
    "a-release-costs-an-attempt",
    "cancel-ignores-that-publishing-began",
    "a-known-outcome-is-resolved",
)


@pytest.fixture(scope="module")
def memory() -> Iterator[Engine]:
    engine = open_engine("memory")
    yield engine
    engine.close()


def first_failure(engine: Engine, bug: str) -> Failure | None:
    until = time.monotonic() + SECONDS
    seed = 0
    with planted(bug):
        while time.monotonic() < until:
            failure = run_seed(engine, seed)
            if failure is not None:
                return failure
            seed += 1
    return None


@pytest.mark.parametrize("name", SEEDS)
def test_no_rule_is_broken(name: str) -> None:
    engine = open_engine(name)
    try:
        for seed in range(SEEDS[name]):
            failure = run_seed(engine, seed)
            assert failure is None, str(failure)
    finally:
        engine.close()


@pytest.mark.parametrize(
    "bug", [pytest.param(bug, marks=[] if bug in FOUND_AT_ONCE else pytest.mark.soak) for bug in PLANTED]
)
def test_a_planted_bug_is_found(memory: Engine, bug: str) -> None:
    assert first_failure(memory, bug) is not None


def test_a_seed_is_replayed_exactly(memory: Engine) -> None:
    bug = "rescue-ignores-that-publishing-began"
    found = first_failure(memory, bug)
    assert found is not None
    assert found.history
    with planted(bug):
        assert run_seed(memory, found.seed) == found


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["memory", "sqlite", "postgres"])
@pytest.mark.timeout(1_800)
def test_many_seeds(engine: str, database_url: str) -> None:
    seeds = {"memory": 2000, "sqlite": 300, "postgres": 20}[engine]
    assert main(["--engine", engine, "--seeds", str(seeds), "--url", database_url]) == 0
