"""What is installed is complete, works outside the checkout, and is quick to import."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ROOT / "examples" / "engines"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE_FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
SOURCES = ["pyproject.toml", "README.md", "LICENSE", *PACKAGE_FOLDERS.values()]

USE_IT = """
import sys
from pathlib import Path

import assistly
from assistly.storage import open_storage
from assistly.storage.engines.sql.migrations import discover

assert Path(sys.argv[1]) in Path(assistly.__file__).resolve().parents, assistly.__file__
with open_storage(engine="sqlite", sqlite_path="data/assistly.db", auto_prune=False) as storage:
    assert storage.migrate() == []
    job = storage.queue.schedule("mastodon", "Hello")
    assert storage.queue.claim_due(worker_id="w")[0].id == job.id
print(*(migration.name for engine in ("postgres", "sqlite") for migration in discover(engine)))
"""


USE_IT_BARE = """
import sys

from assistly.storage import StorageError, open_storage
from assistly.worker import Worker

for engine in ("sqlite", "memory"):
    with open_storage(engine=engine, sqlite_path="bare.db") as storage:
        job = storage.queue.schedule("mastodon", "Hello")
        Worker(storage, {"mastodon": lambda job: "remote"}).run_until_idle()
        assert storage.queue.get(job.id).remote_id == "remote"
assert not {"pydantic", "sqlite_utils", "typer", "rich"} & {*sys.modules}
with open_storage(engine="sqlite", sqlite_path="bare.db", pool_size=2) as storage:
    assert storage.queue.get(job.id) is not None
try:
    open_storage(engine="postgres", database_url="postgresql://127.0.0.1:1/none")
except StorageError as error:
    assert type(error).__name__ == "StorageUnavailable", error
else:
    raise AssertionError("there is no server")
"""


class Environment:
    """A virtual environment without anything in it, not even pip."""

    def __init__(self, path: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", path)
        self.python = path / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.path = path

    def pip(self, *arguments: str | Path) -> None:
        run(
            sys.executable,
            "-m",
            "pip",
            "-q",
            "--disable-pip-version-check",
            "--python",
            self.python,
            *arguments,
        )

    def lend_dependencies(self) -> None:
        """Those of the running environment; what is installed here comes first."""
        lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self._packages() / "lent.pth").write_text("\n".join(lent), encoding="utf-8")

    def lend_core_dependencies(self) -> None:
        """Those that are installed with no extra, and theirs; what an extra brings is not there."""
        packages = self._packages()
        for lent in closure(PROJECT["project"]["dependencies"]):
            for name in {file.parts[0] for file in lent.files or ()} - {"..", "__pycache__"}:
                if not (packages / name).exists():
                    (packages / name).symlink_to(Path(str(lent.locate_file(name))))

    def _packages(self) -> Path:
        return Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    def check_installation(self, home: Path, folder: Path) -> list[str]:
        """Use the package from elsewhere; the names of the migrations that it found."""
        folder.mkdir()
        return run(self.python, "-I", "-c", USE_IT, home.resolve(), cwd=folder).split()


def closure(requirements: Iterable[str]) -> Iterator[Distribution]:
    """The installed distributions that these requirements name, and those that they need in turn."""
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            found = distribution(name)
            if wanted == "":
                yield found
            waiting += [(Requirement(text), wanted) for text in found.requires or ()]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=outside, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files_on_disk() -> set[str]:
    """By the names that they have in the wheel. Engines of third parties are packages of their own."""
    folders = {ROOT / folder: package for package, folder in PACKAGE_FOLDERS.items() if package}
    folders[ROOT / "src" / "assistly"] = "assistly"
    return {
        (Path(*package.split(".")) / path.relative_to(folder)).as_posix()
        for folder, package in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ENGINES not in path.parents
    }


def migrations_on_disk() -> list[str]:
    names = sorted(path.name for path in (ROOT / "migrations").glob("*.sql"))
    return sorted(names, key=lambda name: "sqlite" in name)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since building writes into the folder that it builds."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignore)
        else:
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("builder") / "venv")
    environment.pip("install", *PROJECT["build-system"]["requires"])
    return environment


@pytest.fixture(scope="module")
def wheel(checkout: Path, builder: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that what that lacks is missing here, too."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run(builder.python, "-c", build, folder, cwd=checkout)
    (source,) = folder.glob("*.tar.gz")
    builder.pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_migration(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    assert names == files_on_disk()


def test_the_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.pip("install", "--no-deps", wheel)
    environment.lend_dependencies()
    assert environment.check_installation(environment.path, tmp_path / "work") == migrations_on_disk()
    assert (tmp_path / "work" / "data" / "assistly.db").exists()


def test_the_wheel_works_without_any_extra(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.pip("install", "--no-deps", wheel)
    environment.lend_core_dependencies()
    run(environment.python, "-I", "-c", USE_IT_BARE, cwd=tmp_path)
    command = environment.python.with_name("assistly")
    done = subprocess.run([command], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "assistly: the command needs typer: python -m pip install 'assistly[cli]'\n"


def test_an_editable_installation_works_outside_the_checkout(
    checkout: Path, builder: Environment, tmp_path: Path
) -> None:
    builder.pip("install", "--no-deps", "--no-build-isolation", "--editable", checkout)
    builder.lend_dependencies()
    assert builder.check_installation(checkout, tmp_path / "work") == migrations_on_disk()


def test_the_import_loads_no_driver_and_nothing_heavy() -> None:
    script = "import sys, assistly.storage; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(run_here(script).split())
    heavy = {
        "psycopg",
        "psycopg_pool",
        "sqlite3",
        "pysqlite3",
        "sqlite_utils",
        "pydantic",
        "dotenv",
    }
    assert loaded.isdisjoint(heavy | {"asyncio", "typer", "rich", "pytest", "hypothesis"})


@pytest.mark.parametrize("engine", ["sqlite", "memory"])
def test_opening_loads_nothing_heavy(engine: str, tmp_path: Path) -> None:
    script = (
        "import sys; from assistly.storage import open_storage\n"
        f"open_storage(engine={engine!r}, sqlite_path={str(tmp_path / 'x.db')!r}).close()\n"
        "print(*sys.modules)"
    )
    for _ in ("a new file", "an existing file"):
        loaded = set(run_here(script).split())
        heavy = {"psycopg", "sqlite_utils", "click", "pydantic", "pydantic_core", "dotenv", "asyncio"}
        assert loaded.isdisjoint(heavy | {"importlib.metadata", "importlib.resources", "zipfile", "socket"})


def test_the_import_is_quick() -> None:
    script = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    names = {"ours": "assistly.storage", "theirs": "json, dataclasses, typing, datetime"}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(11):
        for name, modules in names.items():
            times[name].append(float(run_here(script.format(modules))))
    medians = {name: statistics.median(values) for name, values in times.items()}
    assert medians["ours"] <= 1.3 * medians["theirs"], medians


def run_here(script: str) -> str:
    """In a fresh interpreter with the sources that are being tested."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout
