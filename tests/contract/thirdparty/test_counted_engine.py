"""A third party's engine: found by its entry point, and opened by its name.

The engine of examples/engines/lmdb goes through the whole suite in the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from assistly.storage import ConfigurationError, StorageBackend, open_storage
from assistly.storage.settings import load_settings
from assistly.storage.testing import LifecycleContract
from assistly.storage.testing.nonces_contract import NoncesContract

SITE = Path(__file__).parent / "site"


@pytest.fixture(scope="module")
def open_engine() -> Iterator[Callable[[], StorageBackend]]:
    """What is installed as `counted`, opened as `open_storage` does it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SITE)
        (entry_point,) = entry_points(group="assistly.storage_engines", name="counted")
        make = entry_point.load()
        yield lambda: make(load_settings({"engine": "counted"}))


@pytest.fixture(scope="module")
def backend(open_engine: Callable[[], StorageBackend]) -> Iterator[StorageBackend]:
    backend = open_engine()
    yield backend
    backend.close()


class TestCountedEngine(NoncesContract):
    pass


class TestCountedEngineLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self, open_engine: Callable[[], StorageBackend]) -> Callable[[], StorageBackend]:
        return open_engine


@pytest.mark.usefixtures("open_engine")
def test_opened_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORAGE_ENGINE", "counted")
    with open_storage(auto_prune=False) as storage:
        assert "CountedBackend" in repr(storage)
        assert storage.nonces.register("nonce") is True
        assert storage.nonces.register("nonce") is False


@pytest.mark.usefixtures("open_engine")
def test_listed_with_the_others() -> None:
    with pytest.raises(ConfigurationError, match="memory, sqlite, postgres, counted"):
        open_storage(engine="unknown")


def test_unknown_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(SITE)])
    with pytest.raises(ConfigurationError, match="counted"):
        open_storage(engine="counted")
