"""Workers that are killed at random: no job is published twice, and none is forgotten.

What they call and are answered is recorded, and has to be explained by the model.
"""

from __future__ import annotations

import random
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from assistly.storage import NewJob, Storage, open_storage
from assistly.storage.testing.history import Recorder, recorded
from assistly.storage.testing.history_checks import check
from waiting import until
from worker import call_log
from worker.worker_harness import ENGINES, accounted, ended, start_worker, use_engine

WORKERS = 4
LEASE = 1.0
# The line is written whole and before the answer, so that whatever was published is in the record.
PUBLISHER = """
import os, random, time

from call_log import record_queue

record_queue("history")

record = os.open("record", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def publish(job):
    time.sleep(random.uniform(0, 0.0015))
    os.write(record, b"%d %d\\n" % (job.id, os.getpid()))
    time.sleep(random.uniform(0, 0.0015))
    return f"remote-{job.id}"
"""


@dataclass(frozen=True)
class Plan:
    jobs: int
    kills: int

    @property
    def step(self) -> int:
        """Publishes from kill to kill: half of the jobs are left for those that the kills cost."""
        return self.jobs // (2 * self.kills)


PLANS = [
    pytest.param(Plan(jobs=150, kills=6), id="short"),
    pytest.param(
        Plan(jobs=4_000, kills=200), id="full", marks=[pytest.mark.soak, pytest.mark.timeout(1_800)]
    ),
]


@pytest.fixture(params=ENGINES)
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    use_engine(request, PUBLISHER)
    shutil.copy(call_log.__file__, "call_log.py")
    # A job may be claimed again and again and never begun: here that shall not end in the dead letters.
    monkeypatch.setenv("SCHEDULE_MAX_RETRIES", "1000")
    with open_storage(auto_prune=False) as storage:
        yield storage


class Record:
    """What was published, and by which process, as the publisher wrote it down."""

    def __init__(self) -> None:
        self._path = Path("record")
        self._path.touch()
        self._end = 0
        self.jobs: list[int] = []
        self.processes: set[int] = set()

    def read(self) -> int:
        with self._path.open("rb") as file:
            file.seek(self._end)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._end += len(whole)
        for line in whole.splitlines():
            job, process = line.split()
            self.jobs.append(int(job))
            self.processes.add(int(process))
        return len(self.jobs)


class Crew:
    """Workers, and new ones for those that are killed."""

    def __init__(self, size: int) -> None:
        self._log = Path("log")
        self._members = [self._start() for _ in range(size)]

    def seen_in(self, record: Record) -> list[subprocess.Popen[str]]:
        """Those that are publishing."""
        self.check()
        return [member for member in self._members if member.pid in record.processes]

    def replace(self, victim: subprocess.Popen[str]) -> None:
        victim.kill()
        victim.wait()
        self._members[self._members.index(victim)] = self._start()

    def check(self) -> None:
        """None has ended by itself."""
        codes = [member.returncode for member in self._members if member.poll() is not None]
        assert codes == [], self._log.read_text()[-5_000:]

    def close(self) -> None:
        for member in self._members:
            member.kill()
            member.wait()

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("a") as log:
            return start_worker("publishers:publish", "--lease", str(LEASE), "--poll", "0.5", log=log)


@pytest.mark.parametrize("plan", PLANS)
def test_jobs_outlive_their_workers(storage: Storage, plan: Plan) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    recorder = Recorder("test")
    recorded(storage, recorder).queue.schedule_many(
        NewJob("x", f"job {number}") for number in range(plan.jobs)
    )
    scheduled = recorder.calls
    record = Record()
    with closing(Crew(WORKERS)) as crew:
        chance = random.Random(seed)
        for number in range(1, plan.kills + 1):
            kill_one(crew, record, number * plan.step, chance)
        until(lambda: ended(storage) == plan.jobs)
        crew.check()
    record.read()
    check([*scheduled, *call_log.read_calls(Path("history"))], loose=True, retry_delay=timedelta(0))
    posted, unknown = accounted(storage, record.jobs)
    print(f"{len(posted)} posted, {len(unknown)} with an unknown outcome, {len(record.jobs)} published")
    assert len(posted) > plan.jobs / 2
    assert unknown, "no worker was killed while it published"


def kill_one(crew: Crew, record: Record, published: int, chance: random.Random) -> None:
    until(lambda: record.read() >= published and crew.seen_in(record))
    crew.replace(chance.choice(crew.seen_in(record)))
