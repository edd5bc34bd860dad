from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from assistly.storage import factory, plugins
from assistly.storage.engines.memory import MemoryBackend
from assistly.storage.errors import ConfigurationError, StorageClosed, StorageUnavailable
from assistly.storage.factory import open_storage
from assistly.storage.settings import StorageSettings

NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("STORAGE_ENGINE", "DATABASE_URL", "SQLITE_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


class Sleepy(MemoryBackend):
    """An engine of a third party that cannot be reached."""

    made: Sleepy

    def __init__(self, settings: StorageSettings) -> None:
        super().__init__()
        Sleepy.made = self
        self.settings = settings

    def ping(self) -> None:
        raise StorageUnavailable("asleep")


class SleepySettings(StorageSettings):
    sleepy_hours: int = Field(8, description="a number of hours")


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str, settings: str = "SleepySettings") -> None:
    groups = {
        plugins.ENGINES: EntryPoint(name, value, plugins.ENGINES),
        plugins.SETTINGS: EntryPoint(name, f"{__name__}:{settings}", plugins.SETTINGS),
    }
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: EntryPoints([groups[group]]))


def test_memory_needs_nothing() -> None:
    with open_storage(engine="memory", clock=lambda: NOW, auto_prune=False) as storage:
        assert storage.queue.schedule("x", "hello").scheduled_at == NOW


def test_the_default_is_a_sqlite_file_whose_folder_is_made() -> None:
    with open_storage(auto_prune=False) as storage:
        storage.metrics.increment("requestCount")
    assert Path("data/assistly.db").is_file()


def test_the_engine_of_the_environment_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "memory")
    with open_storage(auto_prune=False) as storage:
        assert "Memory" in repr(storage)


def test_settings_become_policies() -> None:
    with open_storage(
        engine="memory",
        clock=lambda: NOW,
        schedule_max_retries=1,
        schedule_worker_lock_seconds=7,
        auto_prune=False,
    ) as storage:
        assert storage.queue.schedule("x", "hello").max_retries == 1
        lock = storage.lock.acquire("me")
        assert lock is not None
        assert lock.expires_at == NOW + timedelta(seconds=7)


@pytest.mark.parametrize(("vacuum", "expected"), [("worker", True), ("off", False)])
def test_who_maintains(monkeypatch: pytest.MonkeyPatch, vacuum: str, expected: bool) -> None:
    monkeypatch.setenv("STORAGE_VACUUM", vacuum)
    with open_storage(engine="memory", auto_prune=False) as storage:
        assert storage.worker_maintains is expected


def test_the_built_in_engines_are_those_that_plug_ins_cannot_replace() -> None:
    assert {*factory._BUILT_IN} == {*plugins.BUILT_IN}


def test_an_unknown_engine_lists_the_ones_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "sleepy", "tests:nothing")
    with pytest.raises(ConfigurationError, match="one of memory, sqlite, postgres, sleepy; got 'mysql'"):
        open_storage(engine="mysql")


def test_a_url_in_place_of_an_engine_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_storage(engine="postgres://me:hunter2@host/d")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", [None, "", " "])
def test_postgres_needs_a_url(url: str | None) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        open_storage(engine="postgres", database_url=url)


def test_a_missing_driver_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("assistly.storage.engines.postgres")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'psycopg\[binary\]'"):
        open_storage(engine="postgres", database_url="postgres://h/d")


def test_a_plug_in_gets_the_settings_and_is_closed_when_it_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, "sleepy", f"{__name__}:Sleepy")
    with pytest.raises(StorageUnavailable, match="asleep"):
        options: dict[str, Any] = {"sleepy_hours": 9}
        open_storage(engine="sleepy", database_url="sleepy://bed", **options)
    settings = Sleepy.made.settings
    assert isinstance(settings, SleepySettings)
    assert settings.sleepy_hours == 9
    url = settings.database_url
    assert url is not None
    assert url.get_secret_value() == "sleepy://bed"
    with pytest.raises(StorageClosed):
        Sleepy.made.jobs.counts()


@pytest.mark.parametrize("value", ["no_such_module_anywhere:Engine", f"{__name__}:NoSuchName"])
def test_a_plug_in_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    install(monkeypatch, "broken", value)
    with pytest.raises(ConfigurationError, match="plug-in 'broken'"):
        open_storage(engine="broken")


def test_a_clock_that_is_none_is_refused() -> None:
    wrong: Any = 5
    with pytest.raises(ConfigurationError, match="clock"):
        open_storage(engine="memory", clock=wrong)


def test_a_built_in_engine_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "memory", f"{__name__}:Sleepy")
    open_storage(engine="memory", auto_prune=False).close()
