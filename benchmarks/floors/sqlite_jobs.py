"""The jobs table of the floors on SQLite. Times are microseconds since the epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..workload import PLATFORM, content

if TYPE_CHECKING:
    import sqlite3

TABLE = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    status TEXT NOT NULL DEFAULT 'scheduled',
    platform TEXT NOT NULL,
    content TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    worker_id TEXT,
    lease_until INTEGER,
    finished_at INTEGER
) STRICT;
CREATE INDEX jobs_due ON jobs (due_at) WHERE status IN ('scheduled', 'retrying');
"""
INSERT = "INSERT INTO jobs (platform, content, due_at, created_at) VALUES (?, ?, ?, ?)"


def now_us() -> int:
    return time.time_ns() // 1000


def filler(connection: sqlite3.Connection) -> Callable[[int], int]:
    def fill(count: int) -> int:
        at = now_us()
        connection.execute("DELETE FROM jobs")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, [(PLATFORM, content(number), at, at) for number in range(count)])
        connection.execute("COMMIT")
        return count

    return fill
