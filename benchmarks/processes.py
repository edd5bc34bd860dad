"""The CPU time of whole processes of this Python."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def cpu_milliseconds(statement: Callable[[], str], compiled: Path, count: int) -> tuple[float]:
    """The median of so many processes, each of which runs what `statement` returns.

    Modules are compiled once, into the folder `compiled`, as an installation has them.
    """
    return (statistics.median(_cpu_seconds(statement(), compiled) for _ in range(count)) * 1e3,)


def _cpu_seconds(statement: str, compiled: Path) -> float:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], env=environment, check=True)  # noqa: S603 - our own words
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
