"""The engine on LMDB, a package of its own: found by its name, opened with its settings, and proven."""

from __future__ import annotations

import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import (
    ConfigurationError,
    MigrationError,
    Storage,
    StorageBackend,
    StorageCorrupt,
    StorageUnavailable,
    open_storage,
)
from assistly.storage.engine import OrderedStore
from assistly.storage.testing import (
    EngineSpec,
    ForkContract,
    LifecycleContract,
    MachineContract,
    OrderedStoreContract,
    ProcessContract,
    RaceContract,
    StorageContract,
)
from assistly.storage.testing.forking import ForkedChild, needs_fork

pytest.importorskip("fcntl", reason="the example locks files as Unix does")
pytest.importorskip("lmdb")

PROJECT = Path(__file__).parents[2] / "examples" / "engines" / "lmdb"


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package with its entry points, as `pip install` would leave it, without asking for anything."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"assistly_lmdb-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    lines: list[str] = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROJECT)
        patch.syspath_prepend(site)
        yield import_module("assistly_lmdb")
    for name in [name for name in sys.modules if name.startswith("assistly_lmdb")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lmdb") / "data"


@pytest.fixture(scope="module")
def backend(package: Any, folder: Path) -> Iterator[StorageBackend]:
    backend = package.LmdbBackend(folder)
    yield backend
    backend.close()


class OnDisk:
    """For the classes that open the data of `backend` once more."""

    @pytest.fixture
    def engine_spec(self, folder: Path) -> EngineSpec:
        return EngineSpec("assistly_lmdb:LmdbBackend", (str(folder),))

    @pytest.fixture
    def new_engine_spec(self, tmp_path: Path) -> Callable[[], EngineSpec]:
        numbers = count()
        return lambda: EngineSpec("assistly_lmdb:LmdbBackend", (str(tmp_path / f"new-{next(numbers)}"),))


@pytest.fixture
def impatient_backend(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StorageBackend]:
    monkeypatch.setattr("assistly.storage.engine.keyvalue.backend.LOCK_SECONDS", 0.2)
    monkeypatch.setattr("assistly_lmdb.store._LOCK_SECONDS", 0.2)
    backend = package.LmdbBackend(tmp_path / "impatient")
    yield backend
    backend.close()


class TestLmdb(StorageContract):
    pass


class TestLmdbLifecycle(LifecycleContract):
    @pytest.fixture
    def new_backend(self, package: Any, tmp_path: Path) -> Callable[[], StorageBackend]:
        numbers = count()
        return lambda: package.LmdbBackend(tmp_path / str(next(numbers)))


class TestLmdbStore(OrderedStoreContract):
    @pytest.fixture
    def new_store(self, package: Any, tmp_path: Path) -> Callable[[], OrderedStore[Any]]:
        return lambda: package.LmdbStore(tmp_path / "store", 2**28)

    @pytest.fixture
    def impatient_store(self, other: OrderedStore[Any], monkeypatch: pytest.MonkeyPatch) -> OrderedStore[Any]:
        monkeypatch.setattr("assistly_lmdb.store._LOCK_SECONDS", 0.2)
        return other


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestLmdbForks(OnDisk, ForkContract):
    pass


class TestLmdbProcesses(OnDisk, ProcessContract):
    pass


class TestLmdbRaces(OnDisk, RaceContract):
    pass


class TestLmdbMachines(OnDisk, MachineContract):
    MACHINE_EXAMPLES = 10


class TestSettings:
    @pytest.fixture(autouse=True)
    def elsewhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)

    def test_opened_by_its_name_and_its_variables(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("STORAGE_ENGINE", "lmdb")
        monkeypatch.setenv("LMDB_PATH", "of-a-variable")
        with open_storage(auto_prune=False) as storage:
            assert repr(storage) == f"Storage(LmdbBackend({str(tmp_path / 'of-a-variable')!r}))"
            storage.nonces.register("nonce")
        assert (tmp_path / "of-a-variable" / "data.mdb").exists()

    def test_its_keywords(self, tmp_path: Path) -> None:
        keywords: dict[str, Any] = {"engine": "lmdb", "lmdb_path": tmp_path / "a", "lmdb_map_size": 2**24}
        with open_storage(auto_prune=False, **keywords) as storage:
            assert storage.nonces.register("nonce") is True

    def test_a_wrong_one(self) -> None:
        keywords: dict[str, Any] = {"engine": "lmdb", "lmdb_map_size": 5}
        with pytest.raises(ConfigurationError, match=r"LMDB_MAP_SIZE.* must be a number of bytes"):
            open_storage(auto_prune=False, **keywords)

    def test_migrations_are_left_to_the_command(self, package: Any, tmp_path: Path) -> None:
        keywords: dict[str, Any] = {"engine": "lmdb", "lmdb_path": tmp_path / "a", "auto_migrate": False}
        with pytest.raises(MigrationError, match="assistly migrate"):
            open_storage(auto_prune=False, **keywords)
        backend = package.LmdbBackend(tmp_path / "a", auto_migrate=False)
        assert backend.migrate() == ["001_keyvalue"]
        assert backend.migrate() == []
        backend.close()
        with open_storage(auto_prune=False, **keywords) as storage:
            assert storage.nonces.seen("nonce") is False


class TestFolder:
    def test_a_file_in_its_place(self, package: Any, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("hello")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            backend = package.LmdbBackend(path)
            with pytest.raises(ConfigurationError, match="LMDB_PATH must be the path of a folder"):
                backend.ping()
            backend.close()

    def test_what_stood_in_the_way_may_be_removed(self, package: Any, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("hello")
        backend = package.LmdbBackend(tmp_path / "data")
        with pytest.raises(ConfigurationError):
            backend.ping()
        (tmp_path / "data").unlink()
        backend.ping()
        backend.close()

    def test_something_else_in_it(self, package: Any, tmp_path: Path) -> None:
        (tmp_path / "data.mdb").write_bytes(b"hello" * 2000)
        backend = package.LmdbBackend(tmp_path)
        with pytest.raises(StorageCorrupt):
            backend.ping()
        backend.close()

    def test_a_map_that_is_full(self, package: Any, tmp_path: Path) -> None:
        backend = package.LmdbBackend(tmp_path / "data", map_size=2**20)
        with Storage(backend, auto_prune=False) as storage:
            with pytest.raises(StorageUnavailable, match="LMDB_MAP_SIZE"):
                storage.events.append_many(("type", "x" * 2**19) for _ in range(4))
            assert storage.events.list() == []
            assert storage.nonces.register("small") is True

    def test_two_backends_on_one_folder(self, package: Any, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "data")
        first, second = package.LmdbBackend(tmp_path / "data"), package.LmdbBackend(tmp_path / "link")
        assert first.nonces.register("a", 1) is True
        assert second.nonces.register("a", 1) is False
        first.close()
        assert second.nonces.register("b", 1) is True
        second.close()

    def test_a_chdir_leads_nowhere_else(
        self, package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        backend = package.LmdbBackend("data")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        backend.ping()
        backend.close()
        assert (tmp_path / "data" / "data.mdb").exists()


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestForks:
    def test_a_child_frees_no_slot_of_a_reader_of_its_parents(self, package: Any, tmp_path: Path) -> None:
        """A slot that was freed too early lets writers use pages again that a reader still reads."""
        backend = package.LmdbBackend(tmp_path / "data")
        backend.ping()

        def work(pipe: Connection) -> None:
            backend.nonces.register("child's", 1)
            backend.close()
            pipe.send("closed")

        environment = backend._store._environment
        child = ForkedChild(work)
        with environment.use() as opened, opened.begin() as reader:
            before = [*reader.cursor().iternext(values=False)]
            child.receive()
            child.result()
            assert opened.readers().count(f"{os.getpid()} ") == 1
            for number in range(200):
                backend.nonces.register(f"{number}", 1)
            assert [*reader.cursor().iternext(values=False)] == before
        backend.close()

    def test_a_child_that_is_killed_holds_no_lock(self, package: Any, tmp_path: Path) -> None:
        backend = package.LmdbBackend(tmp_path / "data")
        backend.ping()

        def work(pipe: Connection) -> None:
            with backend.transaction() as tx:
                tx.nonces.register("inside", 1)
                pipe.send("inside")
                signal.pause()

        child = ForkedChild(work)
        child.receive()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert backend.nonces.register("inside", 1) is True
        backend.close()
