"""Memory: dictionaries, and heaps of times, under one lock.

Without the lock two callers may both be the first. Without the heap expiry is a scan; times of the
callers' own come in any order, so that a plain queue would not do.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..model import Environment, Measure, Numbers, throughput, times
from ..workload import BATCH, PLATFORM, WORKER, content, nonce, until_empty

_DAY = 86400.0
_LEASE = 300.0


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


class Jobs:
    """Each job is a dictionary; what is due is found by a heap."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[int, dict[str, Any]] = {}
        self._due: list[tuple[float, int]] = []
        self._newest = 0

    def schedule(self, platform: str, text: str) -> int:
        now = time.time()
        with self._lock:
            self._newest = id = self._newest + 1
            self._jobs[id] = {
                "status": "scheduled",
                "platform": platform,
                "content": text,
                "due_at": now,
                "created_at": now,
                "claim": 0,
            }
            heapq.heappush(self._due, (now, id))
            return id

    def claim(self, limit: int) -> list[tuple[int, int]]:
        """Ids with their fences."""
        now = time.time()
        claimed: list[tuple[int, int]] = []
        with self._lock:
            while self._due and self._due[0][0] <= now and len(claimed) < limit:
                id = heapq.heappop(self._due)[1]
                job = self._jobs[id]
                fence = job["claim"] + 1
                job.update(status="processing", claim=fence, worker_id=WORKER, lease_until=now + _LEASE)
                claimed.append((id, fence))
        return claimed

    def settle(self, claimed: list[tuple[int, int]]) -> int:
        now = time.time()
        settled = 0
        with self._lock:
            for id, fence in claimed:
                job = self._jobs[id]
                if job["status"] == "processing" and job["claim"] == fence:
                    job.update(status="posted", posted_at=now, worker_id=None, lease_until=None)
                    settled += 1
        return settled


@contextmanager
def put_nonce(_: Environment) -> Iterator[Measure]:
    keys = Keys()
    yield throughput(times(lambda number: keys.put(nonce(number))), Numbers())


@contextmanager
def enqueue(_: Environment) -> Iterator[Measure]:
    jobs = Jobs()
    yield throughput(times(lambda number: jobs.schedule(PLATFORM, content(number))), Numbers())


@contextmanager
def drain(_: Environment) -> Iterator[Measure]:
    jobs = Jobs()

    def step() -> int:
        return jobs.settle(jobs.claim(BATCH))

    yield throughput(until_empty(step), _filler(jobs))


def _filler(jobs: Jobs) -> Callable[[int], int]:
    def fill(count: int) -> int:
        for number in range(count):
            jobs.schedule(PLATFORM, content(number))
        return count

    return fill
