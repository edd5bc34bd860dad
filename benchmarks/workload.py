"""What all contenders are given to store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

PLATFORM = "mastodon"
WORKER = "bench:1"
BATCH = 100


def content(number: int) -> str:
    return f"Fresh bread at seven, and rolls from batch {number}."


def nonce(number: int) -> str:
    return f"delivery-{number:012d}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def in_batches(names: Iterable[str], size: int = BATCH) -> list[list[str]]:
    every = list(names)
    return [every[start : start + size] for start in range(0, len(every), size)]


def until_empty(step: Callable[[], int]) -> Callable[[object], int]:
    """Repeats a step until it finds nothing to do; how much was done in all."""

    def run(_: object) -> int:
        total = 0
        while done := step():
            total += done
        return total

    return run
