"""`assistly web` as a process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from assistly.storage import SqliteBackend, Storage
from waiting import until
from web.filling import READ_TOKEN, TOKEN, fill
from worker.worker_harness import HANDLES_SIGINT


class Served:
    """A process that serves the page, and what it prints."""

    def __init__(self, environment: dict[str, str], *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            # A process that a script starts in the background ignores SIGINT.
            [
                *prefix,
                sys.executable,
                "-c",
                MAIN if prefix else f"{HANDLES_SIGINT}; {MAIN}",
                "web",
                *arguments,
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += self.process.stdout

    @property
    def out(self) -> str:
        return "".join(self.lines)

    @property
    def port(self) -> int:
        """Once it listens."""
        until(lambda: re.search(r"http://\S+:\d+/", self.out) or self.process.poll() is not None)
        found = re.search(r"http://\S+:(\d+)/", self.out)
        assert found, self.out
        return int(found[1])

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def end(self, number: int | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join()
        assert "Traceback" not in self.out, self.out
        assert TOKEN not in self.out
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


MAIN = "from assistly.cli import main; main()"
Start = Callable[..., Served]


@pytest.fixture
def environment(path: Path) -> dict[str, str]:
    """Of a filled SQLite file."""
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        fill(storage)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STORAGE_", "WEB_"))}
    return kept | {"STORAGE_ENGINE": "sqlite", "SQLITE_PATH": str(path)}


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    started: list[Served] = []

    def start_one(*arguments: str, prefix: tuple[str, ...] = (), **settings: str) -> Served:
        started.append(Served(environment | settings, *arguments, prefix=prefix))
        return started[-1]

    yield start_one
    for one in started:
        one.close()


def get(served: Served, path: str = "/", **options: Any) -> httpx.Response:
    return httpx.get(f"{served.url}{path}", timeout=60, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal(start: Start, environment: dict[str, str], number: int) -> None:
    served = start("--listen", "0")
    assert get(served).status_code == 200
    assert get(served, "/healthz").text == "alive\n"
    assert get(served, headers={"host": "evil.example"}).status_code == 403
    assert f"storage: sqlite {environment['SQLITE_PATH']}" in served.out
    assert "server" not in get(served).headers
    assert served.end(number) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_while_a_browser_keeps_a_connection(start: Start, number: int) -> None:
    served = start("--listen", "0")
    with httpx.Client(base_url=served.url, timeout=60) as browser:
        assert browser.get("/").status_code == 200
        assert served.end(number) == 0


def test_it_ends_while_a_form_does_not_arrive(start: Start) -> None:
    served = start("--listen", "0", "--allow-changes")
    with closing(socket.create_connection(("127.0.0.1", served.port), 60)) as slow:
        slow.sendall(
            b"POST /settings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\nform="
        )
        assert get(served).status_code == 200
        assert served.end(signal.SIGTERM) == 0


def test_postgres(start: Start, postgres: Storage, database_url: str, schema: str) -> None:
    fill(postgres)
    served = start(
        "--listen",
        "[::1]:0" if has_ipv6() else "0",
        STORAGE_ENGINE="postgres",
        DATABASE_URL=f"{database_url}&password=canary-7f3a" if "?" in database_url else database_url,
        STORAGE_SCHEMA=schema,
        WEB_TOKEN=TOKEN,
    )
    bearer = {"authorization": f"Bearer {TOKEN}"}
    host = "[::1]" if has_ipv6() else "127.0.0.1"
    response = httpx.get(f"http://{host}:{served.port}/jobs", headers=bearer, timeout=60)
    assert (response.status_code, "a post" in response.text) == (200, True)
    assert "canary-7f3a" not in response.text + served.out
    assert served.end(signal.SIGTERM) == 0


def has_ipv6() -> bool:
    try:
        with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)):
            return True
    except OSError:
        return False


def test_tokens_of_the_environment(start: Start) -> None:
    served = start("--listen", "0.0.0.0:0", "--allow-changes", WEB_TOKEN=TOKEN, WEB_READ_TOKEN=READ_TOKEN)
    assert get(served).status_code == 303
    for token, may_change in ((TOKEN, True), (READ_TOKEN, False)):
        response = get(served, "/platforms", headers={"authorization": f"Bearer {token}"})
        assert (response.status_code, "/platforms/pause" in response.text) == (200, may_change)
    # A proxy on this machine says that the visitor came by TLS.
    forwarded = get(served, "/login", headers={"x-forwarded-proto": "https", "x-forwarded-for": "10.0.0.1"})
    assert "Secure" in forwarded.headers["set-cookie"]
    assert served.end(signal.SIGTERM) == 0


def test_it_works_in_the_background(start: Start) -> None:
    """Where SIGINT is ignored, as `nohup` in a script has it."""
    served = start("--listen", "0", prefix=("nohup", "sh", "-c", 'trap "" INT; exec "$@"', "sh"))
    assert get(served).status_code == 200
    served.process.send_signal(signal.SIGINT)
    assert get(served).status_code == 200
    assert served.end(signal.SIGTERM) == 0


def one_line(served: Served) -> str:
    lines = [line for line in served.lines if not line.startswith("storage: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_the_port_is_taken(start: Start) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        served = start("--listen", str(port))
        assert served.end() == 1
    assert one_line(served) == f"assistly: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("arguments", "settings", "part"),
    [
        (["--listen", "0.0.0.0:0"], {}, "set WEB_TOKEN"),
        (["--listen", "[::]:0"], {}, "set WEB_TOKEN"),
        (["--listen", "a.example:0"], {}, "set WEB_TOKEN"),
        (["--listen", "0"], {"WEB_TOKEN": "canary"}, "at least 16 characters"),
        (["--listen", "0"], {"WEB_TOKEN": TOKEN, "WEB_READ_TOKEN": TOKEN}, "must differ"),
        (["--listen", "0", "--zone", "Mars/Olympus"], {}, "Mars/Olympus"),
        (["--listen", "0"], {"STORAGE_ENGINE": "memory"}, "assistly.web.create_app"),
        (["--listen", "0"], {"SQLITE_PATH": "/nowhere/a.db"}, "there is no database"),
    ],
)
def test_it_does_not_start(start: Start, arguments: list[str], settings: dict[str, str], part: str) -> None:
    served = start(*arguments, **settings)
    assert served.end() == 1
    assert part in one_line(served)
    assert "canary" not in served.out


@pytest.mark.parametrize("missing", ["starlette", "jinja2", "itsdangerous", "uvicorn"])
def test_without_the_extra(environment: dict[str, str], missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from assistly.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "web", "--listen", "0"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "pip install 'assistly[web]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_silent_connections_are_closed_and_do_not_keep_others_out(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the process may open files. It may open few here, so few connections are kept."""
    limit = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    served = start("--listen", "0", prefix=limit)
    port = served.port
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    silent[0].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    try:
        assert get(served).status_code == 200
        for each in silent[: 40 - 64 // 4]:
            each.settimeout(60)
            assert each.recv(100) == b"", "those that have waited longest are closed"
        assert get(served).status_code == 200
    finally:
        for each in silent:
            each.close()
    assert served.end(signal.SIGTERM) == 0
    assert len(served.out) < 2000, served.out[:2000]


def test_short_tokens_are_refused_before_anything_is_opened(start: Start, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    served = start("--listen", "0", WEB_TOKEN="short", SQLITE_PATH=str(missing))
    assert served.end() == 1
    assert "WEB_TOKEN must have at least 16 characters" in served.out
    assert "no database" not in served.out
