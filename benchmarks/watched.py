"""What the page and /metrics cost beside a long history and a running worker.

    python -m benchmarks.watched [--size 5000000] [--engines postgres sqlite]

First the time of each page and of /metrics, asked one after the other while a worker publishes. Then the
worker's speed, in turns: left alone, and while one browser and one Prometheus ask every few seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from assistly.storage import NewJob, Storage
from assistly.worker import Worker

from .scale import filled_storages
from .server import temporary_server

PAGES = ("/", "/calendar", "/jobs", "/jobs?status=dead_letter", "/platforms", "/approvals", "/events")
LIMIT = 0.050
"""Seconds for a page, or for /metrics."""
SLOWER = 1.02
"""How much longer the worker may take while it is watched."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=5_000_000)
    parser.add_argument("--engines", nargs="+", default=["postgres", "sqlite"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jobs", type=int, default=4000, help="that the worker publishes in a round")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks at the page")
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL"))
    parser.add_argument("--keep", type=Path, help="a folder for the databases, which are used again")
    options = parser.parse_args()
    for engine in options.engines:
        with ExitStack() as stack:
            url = options.database_url
            if engine == "postgres" and url is None:
                url = stack.enter_context(temporary_server())
            folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (filled,) = stack.enter_context(filled_storages(engine, [options.size], url, folder))
            environment = {
                **os.environ,
                "STORAGE_ENGINE": engine,
                "DATABASE_URL": url or "",
                "STORAGE_SCHEMA": f"assistly_scale_{options.size}" if engine == "postgres" else "",
                "SQLITE_PATH": str(folder / f"scale-{options.size}.db"),
            }
            page = stack.enter_context(_served(["web"], environment))
            metrics = stack.enter_context(_served(["metrics"], environment))
            _measure(engine, filled.storage, page, metrics, options)


@contextmanager
def _served(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Run a command that serves, and yield its address."""
    port = _free_port()
    process = subprocess.Popen(  # noqa: S603 - a command of ours
        [sys.executable, "-m", "benchmarks.command", *command, "--listen", str(port)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                httpx.get(f"{address}/healthz", timeout=30)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                break
        yield address
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _measure(engine: str, storage: Storage, page: str, metrics: str, options: argparse.Namespace) -> None:
    addresses = [page + path for path in PAGES] + [f"{metrics}/metrics"]
    with _working(storage), httpx.Client(timeout=60) as client:
        for address in addresses:
            times = sorted(_ask(client, address, pause=1.1) for _ in range(12))[2:]
            seconds = statistics.median(times)
            verdict = "" if seconds <= LIMIT else f"  above {LIMIT * 1000:.0f} ms"
            _print(f"{engine:10}{httpx.URL(address).raw_path.decode():28}{seconds * 1000:8.1f} ms{verdict}")
    _drain(storage, options.jobs)
    ratios = []
    for number in range(options.rounds):
        runs = {}
        for watched in (False, True) if number % 2 else (True, False):
            with _looked_at([page + "/", f"{metrics}/metrics"], options.every) if watched else nullcontext():
                runs[watched] = _drain(storage, options.jobs)
        ratios.append(runs[True] / runs[False])
    ratio = statistics.median(ratios)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    verdict = "" if ratio <= SLOWER else f"  above {SLOWER}"
    _print(f"{engine:10}{'worker, watched / alone':28}{ratio:8.3f} ({spread}){verdict}")


def _ask(client: httpx.Client, address: str, *, pause: float) -> float:
    # What was read less than a second ago may be shown again.
    time.sleep(pause)
    start = time.perf_counter()
    client.get(address).raise_for_status()
    return time.perf_counter() - start


@contextmanager
def _working(storage: Storage) -> Iterator[None]:
    """Run a worker that publishes a job each few milliseconds."""
    worker = Worker(storage, {"watched": lambda _: None})
    stop = threading.Event()

    def schedule() -> None:
        while not stop.wait(0.01):
            storage.queue.schedule("watched", "a post", datetime.now(UTC))

    threads = [
        threading.Thread(target=schedule),
        threading.Thread(target=lambda: worker.run(handle_signals=False)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        worker.stop()
        for thread in threads:
            thread.join()


@contextmanager
def _looked_at(addresses: list[str], every: float) -> Iterator[None]:
    stop = threading.Event()

    def look() -> None:
        with httpx.Client(timeout=60) as client:
            while True:
                for address in addresses:
                    client.get(address).raise_for_status()
                if stop.wait(every):
                    return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _drain(storage: Storage, jobs: int) -> float:
    """How many seconds a worker takes for so many jobs."""
    now = datetime.now(UTC) - timedelta(minutes=1)
    Worker(storage, {"watched": lambda _: None}).run_until_idle()
    storage.queue.schedule_many(NewJob("watched", f"post {number}", now) for number in range(jobs))
    worker = Worker(storage, {"watched": lambda _: None}, concurrency=16)
    start = time.perf_counter()
    worker.run_until_idle()
    seconds = time.perf_counter() - start
    if worker.counts.get("posted") != jobs:
        raise RuntimeError(f"the worker posted {worker.counts} of {jobs}")
    return seconds


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
