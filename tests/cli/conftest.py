"""What the tests of the command line share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from assistly import cli
from assistly.storage.engines.sqlite.driver import sqlite3

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; returns exit code, stdout, and stderr without the last newline."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["assistly", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main(owns_process=False)
        out, err = capsys.readouterr()
        code = caught.value.code
        if isinstance(code, str):
            return 1, out, err + code
        return code or 0, out, err.removesuffix("\n")

    return call


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment names a server that does not answer. The password is returned, to be looked for."""
    monkeypatch.setenv("STORAGE_ENGINE", "postgres")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:canary-secret@127.0.0.1:1/none")
    monkeypatch.setenv("STORAGE_TIMEOUT_SECONDS", "0.2")
    return "canary-secret"


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The engine that the environment names, with an empty database, and the working directory is empty.

    `@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)` restricts a test to one.
    """
    monkeypatch.chdir(tmp_path)
    for variable in ("STORAGE_AUTO_MIGRATE", "DATABASE_URL", "SCHEDULE_MAX_RETRIES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("STORAGE_ENGINE", request.param)
    if request.param == "sqlite":
        monkeypatch.setenv("SQLITE_PATH", "cli.db")
    else:
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("database_url"))
        monkeypatch.setenv("STORAGE_SCHEMA", request.getfixturevalue("schema"))
    return str(request.param)


Finding = dict[str, Any]
Check = Callable[..., list[Finding]]
Sql = Callable[[str], list[Any]]


@pytest.fixture
def check(run: Run) -> Check:
    """Runs `assistly doctor` with these checks alone; returns what they find, and not whether it connects."""

    def call(*names: str) -> list[Finding]:
        only = [argument for name in names for argument in ("--only", name)]
        found: list[Finding] = json.loads(run("doctor", "--json", *only)[1])["findings"]
        return found

    return call


@pytest.fixture
def sql(engine: str, request: pytest.FixtureRequest) -> Iterator[Sql]:
    """Runs a statement on the database of the environment, outside the storage; returns its rows."""
    with closing(_connection(engine, request)) as connection:

        def call(statement: str) -> list[Any]:
            cursor = connection.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

        yield call


def _connection(engine: str, request: pytest.FixtureRequest) -> Any:
    if engine == "sqlite":
        return sqlite3.connect("cli.db", isolation_level=None)
    connection = psycopg.connect(request.getfixturevalue("database_url"), autocommit=True)
    connection.execute(f'SET search_path = "{request.getfixturevalue("schema")}"'.encode())
    return connection
