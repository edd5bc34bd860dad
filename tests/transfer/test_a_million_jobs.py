"""How long a copy of a million jobs takes, and how much memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from assistly.storage import NewJob, Posted, SqliteBackend, Storage

JOBS = 1_000_000
MEBIBYTES = 200
CPU_SECONDS = 60
"""Without those of the server. With two cores for both, a copy then takes less than two minutes."""

_COMMAND = "from assistly.cli import main; main()"
_TEXT = "Fresh bread at seven, rolls at eight, and the cinnamon buns that everybody asked for are back. "


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_million_jobs(tmp_path: Path, database_url: str, schema: str) -> None:
    """To Postgres and back."""
    with closing(Storage(SqliteBackend(tmp_path / "old.db"), auto_prune=False)) as storage:
        for start in range(0, JOBS, 5000):
            jobs = [
                NewJob("x", f"{_TEXT}{number}", idempotency_key=f"message-{number}", metadata={"tag": "news"})
                for number in range(start, start + 5000)
            ]
            storage.queue.schedule_many(jobs, returning="none")
        for _ in range(JOBS // 2000):
            claimed = storage.queue.claim_due(worker_id="worker", limit=1000)
            storage.queue.settle([Posted(job, f"remote-{job.id}") for job in claimed])
    places = [str(tmp_path / "old.db"), f"{database_url}#{schema}", str(tmp_path / "new.db")]
    for source, target in pairwise(places):
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", _COMMAND, "copy", source, target], check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        of_cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        peak = used.ru_maxrss / 1024
        took = f"{time.monotonic() - begun:.0f} s, {of_cpu:.0f} s of CPU, at most {peak:.0f} MiB"
        print(f"{took}: {source} to {target}")
        assert of_cpu < CPU_SECONDS
        assert peak < MEBIBYTES
