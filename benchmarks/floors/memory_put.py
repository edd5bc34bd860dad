"""Put if absent in memory with expiry: a dictionary and a heap of expiry times, under one lock.

Without the lock two callers may both be the first. Without the heap expiry is a scan; times of the
callers' own come in any order, so that a plain queue would not do.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Numbers, Round, Surroundings, throughput, times
from ..workload import nonce
from .alone import run_alone

_DAY = 86400.0


class Keys:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expires: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def put(self, key: str) -> bool:
        now = time.time()
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                del self._expires[heapq.heappop(self._heap)[1]]
            if key in self._expires:
                return False
            self._expires[key] = expires = now + _DAY
            heapq.heappush(self._heap, (expires, key))
            return True


@contextmanager
def floor(_: Surroundings) -> Iterator[Round]:
    keys = Keys()
    yield throughput(times(lambda number: keys.put(nonce(number))), Numbers())


if __name__ == "__main__":
    run_alone(floor, 100_000, postgres=False)
