"""The CPU time of whole processes of this Python."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Callable


def cpu_milliseconds(statement: Callable[[], str], count: int) -> tuple[float]:
    """The median of so many processes, each of which runs what `statement` returns."""
    return (statistics.median(_cpu_seconds(statement()) for _ in range(count)) * 1e3,)


def _cpu_seconds(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)  # noqa: S603 - our own words
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
