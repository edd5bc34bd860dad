"""One job at a time: the statements of the drain in batches, with LIMIT 1: two round trips and two commits.

To settle a job and claim the next one in the same statement gains nothing that can be measured.
"""

from __future__ import annotations

from functools import partial

from . import postgres_drain
from .alone import run_alone

floor = partial(postgres_drain.floor, limit=1)


if __name__ == "__main__":
    run_alone(floor, 1000)
