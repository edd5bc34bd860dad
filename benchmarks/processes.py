"""Times whole processes of this Python."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def milliseconds_of(statement: str, count: int) -> tuple[float]:
    """The median of so many processes that run it."""
    return (statistics.median(_seconds(statement) for _ in range(count)) * 1e3,)


def _seconds(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)  # noqa: S603 - our own words
    return time.perf_counter() - began
