"""Eight processes share limits and pauses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from assistly.storage.testing import EngineSpec, race_platforms
from assistly.storage.testing.fixtures import MINUTE, SECOND, START
from assistly.storage.testing.race_platforms_contract import PlatformRacesContract
from assistly.storage.testing.races import ProcessRace, Race, RaceProcesses

COUNT = 100
STEP = 10 * SECOND


@pytest.fixture(scope="module")
def eight_processes() -> Iterator[RaceProcesses]:
    processes = RaceProcesses(8)
    yield processes
    processes.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def race(request: pytest.FixtureRequest, tmp_path: Path, eight_processes: RaceProcesses) -> Iterator[Race]:
    if request.param == "sqlite":
        spec = EngineSpec("assistly.storage:SqliteBackend", (str(tmp_path / "race.db"),))
    else:
        url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("schema")
        spec = EngineSpec("assistly.storage:PostgresBackend", (url,), {"schema": schema, "pool_size": 1})
    with closing(spec.open()) as backend:
        yield ProcessRace(backend, eight_processes, spec)


def test_eight_processes_keep_a_limit_for_ten_minutes(race: Race) -> None:
    """In no window more than the limit and what came back in it; of what there was, nearly all is used."""
    moments = [START + number * STEP for number in range(10 * MINUTE // STEP + 1)]
    race.storage.platforms.limit("x", COUNT, MINUTE)
    answers = race.run(race_platforms.take_in_lockstep, "x", 30, moments)
    used = [sum(tokens) for tokens in zip(*answers, strict=True)]
    for first in range(len(used)):
        for last in range(first, len(used)):
            window: timedelta = moments[last] - moments[first]
            assert (sum(used[first : last + 1]) - COUNT) * MINUTE <= COUNT * window
    assert sum(used) >= 0.95 * (COUNT + 10 * COUNT)


def test_no_claim_of_eight_processes_hands_out_jobs_after_a_pause(race: Race) -> None:
    PlatformRacesContract().test_no_claim_after_a_pause_hands_out_its_jobs(race)
