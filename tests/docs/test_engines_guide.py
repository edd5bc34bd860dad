"""The engine of docs/engines.md is complete and passes the suite; so does one whose keys are short."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import (
    MigrationError,
    Storage,
    StorageBackend,
    StorageSettings,
    StorageUnavailable,
    engine,
)
from assistly.storage.engine import base
from assistly.storage.testing import (
    ForkContract,
    LifecycleContract,
    MachineContract,
    OrderedStoreContract,
    StorageContract,
)
from assistly.storage.testing.names_contract import LongNamesContract

GUIDE = Path(__file__).parents[2] / "docs" / "engines.md"
TEXT = GUIDE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module of the guide."""
    folder = tmp_path_factory.mktemp("guide")
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        name = re.match(r'"""(\w+\.py):', block)
        assert name is not None, "each block is a file, and its docstring begins with the name"
        (folder / name[1]).write_text(block, encoding="utf-8")
        compile(block, name[1], "exec")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield import_module("shelf")
    del sys.modules["shelf"]


@pytest.fixture(scope="module")
def backend(shelf: Any) -> Iterator[StorageBackend]:
    backend = shelf.ShelfBackend()
    yield backend
    backend.close()


@pytest.fixture
def impatient_backend(shelf: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("assistly.storage.engine.keyvalue.backend.LOCK_SECONDS", 0.2)
    return shelf.ShelfBackend()


class TestShelf(StorageContract):
    pass


class TestShelfLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self, shelf: Any) -> Callable[[], StorageBackend]:
        backend: Callable[[], StorageBackend] = shelf.ShelfBackend
        return backend


class TestShelfStore(OrderedStoreContract):
    @pytest.fixture
    def new_store(self, shelf: Any) -> Callable[[], engine.OrderedStore[Any]]:
        make: Callable[[], engine.OrderedStore[Any]] = shelf.ShelfStore
        return make


class TestShelfForks(ForkContract):
    pass


class TestShelfMachines(MachineContract):
    MACHINE_EXAMPLES = 5


class TestShortKeys(LongNamesContract):
    """Half of all names are longer than the keys of this one."""

    @pytest.fixture
    def backend(self, shelf: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[StorageBackend]:
        monkeypatch.setattr(shelf.ShelfStore, "max_key_bytes", 64)
        backend: StorageBackend = shelf.ShelfBackend()
        yield backend
        backend.close()


def test_the_guides_test_file_is_what_a_reader_needs(shelf: Any) -> None:
    tests = import_module("test_shelf")
    assert {name for name in vars(tests) if name.startswith("TestShelf")} == {
        "TestShelf",
        "TestShelfForks",
        "TestShelfLifecycle",
        "TestShelfMachines",
    }
    assert type(shelf.in_folder("data")) is shelf.ShelfBackend


def test_a_full_shelf(shelf: Any) -> None:
    with Storage(shelf.ShelfBackend(2**20), auto_prune=False) as storage:
        with pytest.raises(StorageUnavailable, match="the shelf is full: it takes 1048576 bytes"):
            storage.queue.schedule("x", "a" * 2**20)
        assert storage.queue.list() == []


def test_the_settings_of_the_guide(shelf: Any) -> None:
    plugin = import_module("shelf_plugin")
    fields = {*plugin.ShelfSettings.model_fields} - {*StorageSettings.model_fields}
    assert fields == {"shelf_size"}
    project = tomllib.loads(re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)[0])["project"]
    for target in (value for group in project["entry-points"].values() for value in group.values()):
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))
    settings = plugin.ShelfSettings.model_validate({"STORAGE_AUTO_MIGRATE": "false"})
    with Storage(plugin.open_shelf(settings), auto_prune=False) as storage, pytest.raises(MigrationError):
        storage.queue.list()


def test_the_table_of_required_members() -> None:
    rows = re.findall(r"^\| `(\w+Base)` \| (.*?) \| (.*?) ?\|$", TEXT, re.MULTILINE)
    listed = {name: {*re.findall(r"`(\w+)`", required)} for name, required, _ in rows}
    bases = {name: getattr(base, name) for name in base.__all__ if name.endswith("Base")}
    assert listed == {
        name: {*kind.__abstractmethods__} for name, kind in bases.items() if name != "StoreBase"
    }
    assert f"{sum(map(len, listed.values()))} methods" in TEXT
    for name, _, derived in rows:
        for member in re.findall(r"`(\w+)`", derived):
            assert callable(getattr(bases[name], member)), member


def test_names_that_the_guide_mentions_exist() -> None:
    for name in ("BackendBase", "BufferedMap", "KeyValueBackend", "OrderedStore", "OrderedMap", "SortedKeys"):
        assert name in TEXT
        assert hasattr(engine, name)
