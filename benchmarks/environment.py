"""What the figures depend on."""

from __future__ import annotations

import os
import platform
import time
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile

from .floors.sqlite import connected
from .model import Environment
from .relay import DELAY, over_network, round_trip

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


def describe(environment: Environment, *, network: bool) -> dict[str, str]:
    found = {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()}",
        "load": ", ".join(f"{load:.1f}" for load in os.getloadavg()) + " in the last 1, 5 and 15 minutes",
        "disk": f"{_sync_time(environment.folder) * 1e3:.3f} ms to write and sync a page",
        "Assistly": version("assistly"),
        "psycopg": version("psycopg"),
        "SQLite": f"{_sqlite(environment)}, WAL, synchronous = NORMAL",
        "Postgres": _postgres(environment),
        "pool": f"{environment.pool_size} connections",
        "sizes": environment.size,
    }
    if network:
        with over_network(environment) as away:
            added = round_trip(away) - round_trip(environment)
        found["network"] = (
            f"TCP, by way of a relay with {DELAY * 1e3:g} ms each way: "
            f"{added * 1e3:.2f} ms more for a round trip"
        )
    return found


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


def _sqlite(environment: Environment) -> str:
    with closing(connected(environment.new_path())) as connection:
        return str(connection.execute("SELECT sqlite_version()").fetchone()[0])


def _postgres(environment: Environment) -> str:
    if environment.url is None:
        return "none"
    import psycopg

    with psycopg.connect(environment.url) as connection:
        found = connection.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", (list(_SETTINGS),)
        )
        settings = ", ".join(f"{name} = {value}" for name, value in found)
        host = connection.info.host
        server = connection.info.parameter_status("server_version")
    return f"{server} at {'a Unix socket' if host.startswith('/') else host}; {settings}"
