"""What the figures depend on."""

from __future__ import annotations

import os
import platform
import time
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile

from .floors.sqlite_file import opened
from .model import Surroundings

_SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
    "max_connections",
    "jit",
)
_SYNCS = 50


def described(at: Surroundings) -> dict[str, str]:
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()}",
        "load": ", ".join(f"{load:.1f}" for load in os.getloadavg()) + " in the last 1, 5 and 15 minutes",
        "disk": f"{_sync_time(at.folder) * 1e3:.3f} ms to write and sync a page in {at.folder.parent}",
        "Assistly": version("assistly"),
        "psycopg": version("psycopg"),
        "SQLite": f"{_sqlite(at)}, WAL, synchronous = NORMAL",
        "Postgres": _postgres(at),
        "pool": f"{at.pool_size} connections",
        "sizes": at.scale,
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _sync_time(folder: Path) -> float:
    with NamedTemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(_SYNCS):
            file.write(bytes(8192))
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - began) / _SYNCS


def _sqlite(at: Surroundings) -> str:
    with closing(opened(at.new_path())) as connection:
        return str(connection.execute("SELECT sqlite_version()").fetchone()[0])


def _postgres(at: Surroundings) -> str:
    if at.url is None:
        return "none"
    import psycopg

    with psycopg.connect(at.url) as connection:
        found = connection.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", (list(_SETTINGS),)
        )
        settings = ", ".join(f"{name} = {value}" for name, value in found)
        host = connection.info.host
        server = connection.info.parameter_status("server_version")
    return f"{server} at {'a Unix socket' if host.startswith('/') else host}; {settings}"
