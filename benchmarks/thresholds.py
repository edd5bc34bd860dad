"""What each row has to reach: the one place where that is written.

`ratio` is to the row's floor, and `peers` to the best of the other libraries that ran. Where more is
better both are lower bounds; where less is better (milliseconds) `ratio` is an upper bound, and `peers`
how many times as long the best peer may take at least. `value` is a bound for the figure itself.

Memory has two more, which `python -m benchmarks.compare` measures against an older checkout: a nonce,
`schedule` and claim + settle take at most 4, 2.5 and 2 times as long as in the commit 644b32b.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Threshold:
    ratio: float | None = None
    peers: float | None = None
    value: float | None = None


THRESHOLDS: Mapping[str, tuple[Threshold, ...]] = {
    "pg-enqueue": (Threshold(0.80, peers=2),),
    "net-enqueue": (Threshold(0.95, peers=2),),
    "pg-bulk-10k": (Threshold(0.40, peers=2),),
    "pg-bulk-100k": (Threshold(0.40, peers=2),),
    "pg-drain": (Threshold(0.75, peers=2),),
    "pg-drain-4": (Threshold(0.75, peers=2),),
    "pg-drain-one": (Threshold(0.75, peers=1.2),),
    "net-drain-one": (Threshold(0.95, peers=1.2),),
    "pg-history": (Threshold(0.85),),
    "pg-history-one": (Threshold(0.85),),
    "pg-pickup": (Threshold(2.0, peers=1.2), Threshold(2.5, peers=1.2)),
    "pg-nonce": (Threshold(0.80, peers=1.2),),
    "net-nonce": (Threshold(0.95, peers=1.2),),
    "pg-key": (Threshold(0.80, peers=1.2),),
    "net-key": (Threshold(0.95, peers=1.2),),
    "pg-nonces": (Threshold(0.85, peers=1.2),),
    "sqlite-enqueue": (Threshold(0.60, peers=0.95),),
    "sqlite-nonce": (Threshold(0.60, peers=1.2),),
    "sqlite-nonces": (Threshold(0.60),),
    "sqlite-drain": (Threshold(0.40, peers=5),),
    "memory-nonce": (Threshold(0.20, peers=1),),
    "memory-schedule": (Threshold(),),
    "memory-drain": (Threshold(),),
    "pg-prune": (Threshold(0.50), Threshold(value=50)),
    "pg-prune-nonces": (Threshold(), Threshold(value=2)),
    "await-nonce-1": (Threshold(0.80, peers=2),),
    "await-nonce-10": (Threshold(2, peers=2),),
    "await-nonce-50": (Threshold(5, peers=2),),
    "net-await-nonce-50": (Threshold(5, peers=2),),
    "net-await-session-1": (Threshold(0.90),),
    "net-await-session-10": (Threshold(0.90),),
    "net-await-session-50": (Threshold(0.90),),
    "pg-worker-16": (Threshold(peers=1),),
    "pg-worker-64": (Threshold(peers=1),),
    "sqlite-worker-16": (Threshold(peers=2),),
    "sqlite-worker-64": (Threshold(peers=2),),
    "import": (Threshold(1.3),),
    "open-sqlite": (Threshold(value=150),),
}

GROWTH = 1.5
"""`python -m benchmarks.scale`: of each hot operation, from 10,000 to 5,000,000 finished jobs, at most."""
