"""The page, served to the tests: by `assistly web` in a process of its own, or by a thread."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from assistly.monitoring.address import Address
from assistly.storage import Storage
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MAIN = "from assistly.cli import main; main()"
TOKEN = "a token for the tests"
READ_TOKEN = "a token for looking only"


@dataclass(frozen=True)
class ServedPage:
    """Where the page is, and the storage that it shows."""

    url: str
    storage: Storage

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def served_by_process(folder: Path, *options: str, **settings: str) -> Iterator[str]:
    """The address of `assistly web`, on the file assistly.db in the folder."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    environment = os.environ | {"STORAGE_ENGINE": "sqlite", "SQLITE_PATH": str(folder / "assistly.db")}
    command = [sys.executable, "-c", MAIN, "web", "--listen", "0", *options]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=environment | settings, cwd=folder)
    try:
        until(lambda: "http://" in log.read_text() or process.poll() is not None)
        found = re.search(r"http://[^/]+:(\d+)/", log.read_text())
        if found is None:
            pytest.fail(f"`assistly web` did not start: {log.read_text()}")
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def served_by_thread(app: ASGIApp) -> Iterator[str]:
    """The address of an application that a thread serves."""
    import uvicorn

    from assistly.web.serving import listening

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with closing(listening(Address("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()
