"""A storage that a copy has begun to fill is refused wherever it is opened for work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from assistly.storage import (
    ConfigurationError,
    MemoryBackend,
    Storage,
    open_async_storage,
    open_storage,
)
from assistly.storage.engine.moving import moving
from assistly.storage.factory import open_backend
from assistly.storage.settings import load_settings
from assistly.storage.unfinished import unfinished_copy
from assistly.transfer.copying import copy, prepare
from assistly.worker import AsyncWorker, Worker
from cli.conftest import engine as engine
from cli.conftest import run as run

Run = Callable[..., tuple[int, str, str]]
REFUSED = "a copy of sqlite /old.db into it is not finished. Finish it with the same `assistly copy` command"


@pytest.fixture
def source() -> MemoryBackend:
    backend = MemoryBackend()
    Storage(backend, auto_prune=False).queue.schedule("x", "hello")
    return backend


@pytest.fixture
def target(engine: str, source: MemoryBackend) -> Iterator[Storage]:
    """The storage of the environment, which holds a copy that is only prepared."""
    backend = moving(open_backend(load_settings()))
    with closing(Storage(backend, auto_prune=False)) as storage:
        prepare(source, backend, identity="sqlite /old.db")
        yield storage
        assert [job.status for job in storage.queue.list()] == ["scheduled"]
        assert unfinished_copy(backend) == "sqlite /old.db"
        copy(source, backend, identity="sqlite /old.db")
        assert unfinished_copy(backend) is None
    with open_storage() as opened:
        assert [job.content for job in opened.queue.list()] == ["hello"]


def test_no_storage_is_opened_on_it(target: Storage) -> None:
    with pytest.raises(ConfigurationError, match=REFUSED):
        open_storage()

    async def opened() -> None:
        async with open_async_storage():
            raise AssertionError

    with pytest.raises(ConfigurationError, match=REFUSED):
        asyncio.run(opened())


@pytest.mark.parametrize(
    "command",
    [
        ["jobs", "add", "x", "new"],
        ["jobs", "cancel", "1"],
        ["status"],
        ["schedules", "run"],
        ["worker", "--publish", "x=stdout", "--drain"],
    ],
)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_no_command_works_on_it(target: Storage, run: Run, command: list[str]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert f"assistly: sqlite {Path('cli.db').absolute()} is not ready for use: {REFUSED}" in err


@pytest.mark.parametrize("command", [["status"], ["worker", "--publish", "x=stdout", "--drain"]])
@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_no_command_works_on_it_on_postgres(target: Storage, run: Run, command: list[str]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert REFUSED in err
    assert "assistly: postgres postgresql://" in err


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_no_worker_starts_on_it(target: Storage) -> None:
    """Even if it was opened otherwise. The publisher ends a worker that goes wrong."""
    worker: Worker = Worker(target, {"x": lambda job: worker.stop()})
    other: AsyncWorker = AsyncWorker(target, {"x": lambda job: other.stop()})

    def run_async() -> None:
        asyncio.run(other.run())

    works: list[Callable[[], None]] = [worker.run, worker.run_until_idle, run_async]
    for work in works:
        with pytest.raises(ConfigurationError, match=REFUSED):
            work()
