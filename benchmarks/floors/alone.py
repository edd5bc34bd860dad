"""Runs a floor without anything beside it."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from ..model import Round, Surroundings
from ..server import temporary_server


def run_alone(
    open_floor: Callable[[Surroundings], AbstractContextManager[Round]],
    size: int,
    *,
    unit: str = "/s",
    postgres: bool = True,
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=size, help="operations in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL"))
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = options.database_url
        if postgres and not url:
            url = stack.enter_context(temporary_server())
        measure = stack.enter_context(open_floor(Surroundings(url, folder, "full")))
        measure(options.size)
        rounds = [measure(options.size) for _ in range(options.rounds)]
    for values in zip(*rounds, strict=True):
        low, middle, high = min(values), statistics.median(values), max(values)
        sys.stdout.write(f"median {middle:,.2f}{unit}   from {low:,.2f} to {high:,.2f}\n")
