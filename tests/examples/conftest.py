"""Each example on each engine, which it takes from the environment as it does outside of tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from assistly.storage import Storage, open_storage

PREFIXES = ("STORAGE_", "RETENTION_", "SCHEDULE_", "SQLITE_", "DATABASE_")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    for variable in os.environ:
        if variable.startswith(PREFIXES):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORAGE_ENGINE", request.param)
    if request.param == "postgres":
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("database_url"))
        monkeypatch.setenv("STORAGE_SCHEMA", request.getfixturevalue("schema"))
    return str(request.param)


@pytest.fixture
def storage(engine: str) -> Iterator[Storage]:
    with open_storage() as storage:
        yield storage
