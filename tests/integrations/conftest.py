"""The settings of a storage on each SQL engine, which several instances may share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assistly.storage import Storage, open_storage


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Keywords of `open_storage`."""
    if request.param == "sqlite":
        path: Path = request.getfixturevalue("path")
        return {"engine": "sqlite", "sqlite_path": path, "auto_prune": False}
    return {
        "engine": "postgres",
        "database_url": request.getfixturevalue("database_url"),
        "schema": request.getfixturevalue("schema"),
        "auto_prune": False,
    }


@pytest.fixture
def outside(settings: dict[str, Any]) -> Any:
    """Another storage on the same data, which sees what is committed."""
    with open_storage(**settings) as storage:
        yield storage


def platforms(storage: Storage) -> dict[str, list[str]]:
    """The contents of all jobs, by platform."""
    found: dict[str, list[str]] = {}
    for job in storage.queue.list(limit=1000):
        found.setdefault(job.platform, []).append(job.content)
    return found
