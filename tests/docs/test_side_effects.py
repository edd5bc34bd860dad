"""The tables of docs/side-effects.md name the threads and connections that a process really has."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest

from assistly.monitoring import serve
from assistly.storage import AsyncStorage, Job, PostgresBackend, Storage
from assistly.worker import AsyncWorker, Publication, StillUnknown, Worker
from waiting import PATIENCE, until

PAGE = Path(__file__).parents[2] / "docs" / "side-effects.md"


def named_in(section: str, column: int) -> set[str]:
    """The code in a column of the table of this section."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    found = [re.match(r" `([^`]+)`", row[column]) for row in rows[2:]]
    return {match[1] for match in found if match is not None}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of all threads that are started, with N in the place of a number."""
    names: set[str] = set()
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        names.add(re.sub(r"\d+", "N", thread.name))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    return names


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The `application_name` of all connections that are opened."""
    names: set[str] = set()
    connect = psycopg.connect

    def note(*args: Any, **kwargs: Any) -> psycopg.Connection[Any]:
        connection = connect(*args, **kwargs)
        names.add(connection.info.parameter_status("application_name") or "")
        return connection

    monkeypatch.setattr(psycopg, "connect", note)
    monkeypatch.delenv("PGAPPNAME", raising=False)
    return names


class InSteps:
    async def publish(self, _: Job, publication: Publication) -> str:
        await publication.acheckpoint("half")
        return "remote"

    def check(self, _: Job) -> StillUnknown:
        return StillUnknown()


def use_everything(backend: Callable[[], PostgresBackend]) -> None:
    storage = Storage(backend())
    storage.queue.schedule("x", "a")
    storage.queue.schedule_many([])
    storage.queue.wait(timedelta(0))
    storage.maintain()
    worker = Worker(storage, {"x": InSteps()}, concurrency=1, timeout=60, on_event=lambda _: None)
    running = threading.Thread(target=worker.run, name="test")
    running.start()
    until(lambda: worker.counts.get("posted") == 1)
    worker.stop()
    running.join()
    with serve(storage, 0) as server:
        for path in ("/metrics", "/healthz"):
            urlopen(f"http://{server.address}{path}", timeout=PATIENCE).close()
    storage.close()
    asyncio.run(use_async(Storage(backend())))


async def use_async(inner: Storage) -> None:
    storage = AsyncStorage(inner)
    async with storage.transaction() as tx:
        await tx.nonces.register("a")
    await storage.queue.wait(0.01)
    worker = AsyncWorker(storage, {"x": InSteps()})
    task = asyncio.create_task(worker.run())
    await storage.queue.schedule("x", "b")
    while worker.counts.get("posted") != 1:
        await asyncio.sleep(0.01)
    worker.stop()
    await task
    await storage.close()


def test_threads_and_connections(
    database_url: str, schema: str, threads: set[str], connections: set[str]
) -> None:
    use_everything(lambda: PostgresBackend(database_url, schema=schema))
    ours = {name for name in threads if name.startswith("assistly")}
    assert ours == named_in("Threads", 1)
    # The default executor, which the page names, and how `asyncio.run` shuts that down.
    assert threads - ours == {"test", "asyncio_N", "Thread-N (_do_shutdown)"}
    assert connections == named_in("Connections", 2)
