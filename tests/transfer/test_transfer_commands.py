"""`assistly export`, `import` and `copy`."""

from __future__ import annotations

import gzip
import json
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import (
    ConfigurationError,
    Conflict,
    MemoryBackend,
    PostgresBackend,
    SqliteBackend,
    Storage,
    StorageUnavailable,
)
from assistly.storage.engine import BackendBase
from assistly.storage.engine.moving import MovingBackend, moving
from assistly.transfer.copying import copy
from assistly.transfer.export import export_rows
from assistly.transfer.pages import PROGRESS
from cli.conftest import run as run
from transfer.moving_rows import all_rows, answers, filled, take_event

Run = Callable[..., tuple[int, str, str]]
Postgres = Callable[[], tuple[PostgresBackend, str]]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A filled SQLite file, which the environment names."""
    monkeypatch.chdir(tmp_path)
    for variable in ("DATABASE_URL", "STORAGE_SCHEMA"):
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "old.db"
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", str(path))
    with closing(SqliteBackend(path)) as backend:
        filled(backend)
    return path


def records(path: Path) -> tuple[Any, Any]:
    with closing(SqliteBackend(path)) as backend:
        return records_of(backend)


def records_of(backend: MovingBackend) -> tuple[Any, Any]:
    """All rows but those that hold the numbers, and the answers."""
    rows = all_rows(backend)
    del rows["marks"]
    return rows, answers(backend)


def event_of(path: Path) -> tuple[str, Any]:
    """The event that the command left, which is taken away."""
    with closing(SqliteBackend(path)) as backend:
        return take_event(backend)


def test_a_file_holds_all_and_gives_it_back(old: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run("export", "all.gz", "--by", "kim", "--note", "backup")
    assert (code, err) == (0, f"storage: sqlite {old}")
    assert out.startswith("exported ")
    assert stat.S_IMODE(Path("all.gz").stat().st_mode) == 0o600
    assert [*old.parent.glob(".all*")] == []
    rows = sum(len(found) for found in records(old)[0].values()) - 1
    details = {"file": "all.gz", "rows": rows + 5}
    assert event_of(old) == ("operator.export", {"by": "kim", "note": "backup", **details})
    new = old.with_name("new.db")
    monkeypatch.setenv("SQLITE_PATH", str(new))
    assert run("import", "all.gz")[0] == 1
    assert not new.exists()
    assert run("import", "all.gz", "--create", "--by", "lee")[0] == 0
    assert event_of(new) == ("operator.import", {"by": "lee", **details})
    assert records(new) == records(old)
    code, _, err = run("import", "all.gz")
    assert code == 1
    assert "is not empty" in err


@pytest.mark.parametrize("harm", ["truncated", "altered", "altered inside", "newer", "no export"])
def test_a_file_that_is_not_whole_is_refused(
    old: Path, run: Run, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    assert run("export", "all.gz")[0] == 0
    whole = Path("all.gz").read_bytes()
    text = gzip.decompress(whole)
    assert b'"dead letter"' in text
    harmed = {
        "truncated": whole[: len(whole) // 2],
        "altered": whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:],
        "altered inside": text.replace(b'"dead letter"', b'"dear letter"'),
        "newer": text.replace(b'"version": 1', b'"version": 2', 1),
        "no export": b"{}\n",
    }
    Path("all.gz").write_bytes(harmed[harm])
    monkeypatch.setenv("SQLITE_PATH", "new.db")
    code, out, err = run("import", "all.gz", "--create")
    assert (code, out) == (1, "")
    assert "othing was written" in err
    assert not Path("new.db").exists()


def test_through_pipes(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "from assistly.cli import main; main()"]
    exported = subprocess.run([*command, "export", "-"], capture_output=True, check=True)
    monkeypatch.setenv("SQLITE_PATH", "new.db")
    subprocess.run([*command, "import", "-", "--create"], input=exported.stdout, check=True)
    for path in (old, Path("new.db")):
        event_of(path)
    assert records(Path("new.db")) == records(old)


def test_to_postgres_and_back(old: Path, run: Run, database_url: str, schema: str) -> None:
    code, out, err = run("copy", str(old), f"{database_url}#{schema}")
    assert code == 0, err
    assert "both sides hold the same" in out
    with closing(PostgresBackend(database_url, schema=schema)) as backend:
        assert take_event(backend)[0] == "operator.copy"
        assert records_of(backend) == records(old)
    assert run("copy", database_url, "sqlite:///back.db", "--source-schema", schema)[0] == 0
    assert event_of(Path("back.db"))[0] == "operator.copy"
    assert records(Path("back.db")) == records(old)
    code, _, err = run("copy", str(old), "back.db")
    assert code == 1
    assert "is not empty" in err


def test_places_that_are_none(old: Path, run: Run) -> None:
    assert run("copy", "nowhere.db", "new.db")[0] == 1
    assert run("copy", str(old), str(old))[0] == 2
    code, _, err = run("copy", "mysql://root:canary@host/db", "new.db")
    assert code == 1
    assert "canary" not in err
    assert run("copy", str(old), "postgresql://nobody@localhost:1/none")[0] == 3
    assert not Path("new.db").exists()


_KILLED = """
import os, signal, sys
from assistly.storage import PostgresBackend, SqliteBackend
from assistly.transfer import copying, pages
pages._MOST_ROWS = 3
first, path, url, schema, at, rows = sys.argv[1:]
source, target = SqliteBackend(path), PostgresBackend(url, schema=schema)
if first == "postgres":
    source, target = target, source
done = 0
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def progress(step, kind, count, expected):
    global done
    done += count if step == at else 0
    if done >= int(rows):
        die()
copying.copy(source, target, identity="old", closing=die, progress=progress)
"""


@pytest.mark.parametrize(
    ("first", "step", "rows"),
    [
        ("sqlite", "copy", 4),
        ("postgres", "copy", 60),
        ("sqlite", "compare", 100),
        ("postgres", "compare", 260),
        ("sqlite", "closing", 1),
        ("postgres", "closing", 1),
    ],
)
def test_a_copy_that_was_killed_goes_on(
    tmp_path: Path, database_url: str, schema: str, first: str, step: str, rows: int
) -> None:
    """While it was down, others went on: the last step finds what has changed."""
    path = tmp_path / "file.db"
    with (
        closing(SqliteBackend(path)) as file,
        closing(PostgresBackend(database_url, schema=schema)) as server,
    ):
        source, target = (file, server) if first == "sqlite" else (server, file)
        filled(source)
        arguments = [first, str(path), database_url, schema, step, str(rows)]
        ended = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert target.documents.list(PROGRESS, after=None, limit=2)
        with pytest.raises(Conflict, match="unfinished copy of old"):
            copy(source, target, identity="other")
        with pytest.raises(Conflict, match="not finished"):
            export_rows(target, BytesIO(), engine="", schema_level=None)
        storage = Storage(source, auto_prune=False)
        storage.queue.remove(storage.queue.list()[0].id)
        key = next(job.idempotency_key for job in storage.queue.list() if job.idempotency_key)
        (keyed,) = [job for job in storage.queue.list(limit=1000) if job.idempotency_key == key]
        storage.queue.remove(keyed.id)
        storage.queue.schedule("x", "with the key of another", idempotency_key=key)
        storage.sessions.delete("user 00")
        report = copy(source, target, identity="old")
        assert report.resumed
        assert report.held
        assert all(one.source_sha256 == one.target_sha256 for name, one in report.kinds.items())
        assert all_rows(target) == all_rows(source)
        assert answers(target) == answers(source)
        assert not target.documents.list(PROGRESS, after=None, limit=2)


def test_a_copy_in_two_commands(old: Path, run: Run) -> None:
    """What is written between them is found by the second one."""
    code, out, _ = run("copy", "old.db", "new.db", "--prepare")
    assert (code, out) == (0, "prepared: the same command without --prepare finishes the copy\n")
    with closing(Storage(SqliteBackend(old), auto_prune=False)) as source:
        source.queue.schedule("x", "written meanwhile")
        source.sessions.delete("user 00")
    assert run("copy", "old.db", "new.db", "--prepare", "--live")[0] == 2
    assert json.loads(run("copy", "old.db", "new.db", "--prepare", "--json")[1]) == {"finished": False}
    before = records(old)
    code, out, _ = run("copy", "sqlite:///./old.db", "new.db", "--json", "--by", "kim", "--note", "it grew")
    report = json.loads(out)
    assert (code, report["finished"], report["resumed"], report["held"]) == (0, True, True, True)
    assert report["kinds"]["jobs"]["source_sha256"] == report["kinds"]["jobs"]["target_sha256"]
    details = {"by": "kim", "note": "it grew", "source": f"sqlite {old}"}
    assert event_of(Path("new.db")) == ("operator.copy", details)
    assert records(Path("new.db")) == before


@pytest.mark.parametrize("spelling", ["", "sqlite:///./", "link", "hard link"])
def test_a_storage_is_not_copied_onto_itself(old: Path, run: Run, spelling: str) -> None:
    other = {"link": "link.db", "hard link": "hard.db"}.get(spelling, f"{spelling}old.db")
    Path("link.db").symlink_to(old)
    Path("hard.db").hardlink_to(old)
    before = records(old)
    code, _, err = run("copy", str(old), other)
    assert (code, "SOURCE and TARGET are the same storage" in err) == (2, True)
    assert records(old) == before


def test_a_schema_is_not_copied_onto_itself_by_another_url(
    old: Path, run: Run, database_url: str, schema: str
) -> None:
    url, other = f"{database_url}#{schema}", f"{database_url.replace('/data', '//data')}#{schema}"
    assert run("copy", url, f"{database_url}&application_name=other#{schema}")[0] == 2
    with closing(PostgresBackend(database_url, schema=schema)) as backend:
        backend.migrate()
        code, _, err = run("copy", url, other)
        assert (code, "are the same storage" in err) == (1, True)
        assert not backend.documents.list(PROGRESS, after=None, limit=1)
        Storage(backend, auto_prune=False).sessions.put("ann", 1)
        code, _, err = run("copy", url, other)
        assert (code, "is not empty" in err) == (1, True)
        assert backend.read_rows("documents", after=None, limit=9) == []
        assert len(backend.read_rows("sessions", after=None, limit=9)) == 1


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_under_load_it_is_of_one_moment(
    engine: str, old: Path, run: Run, monkeypatch: pytest.MonkeyPatch, database_url: str, schema: str
) -> None:
    """Pairs are written in one transaction: an event and a session that counts them."""
    if engine == "postgres":
        monkeypatch.setenv("STORAGE_ENGINE", "postgres")
        monkeypatch.setenv("DATABASE_URL", database_url)
        monkeypatch.setenv("STORAGE_SCHEMA", schema)
        source = Storage(PostgresBackend(database_url, schema=schema), auto_prune=False)
    else:
        source = Storage(SqliteBackend(old), auto_prune=False)
    source.ping()
    done = threading.Event()

    def write(worker: int) -> None:
        while not done.is_set():
            with suppress(StorageUnavailable), source.transaction() as tx:
                tx.sessions.update(f"writer {worker}", lambda count: count + 1, default=0)
                tx.events.append(f"writer {worker}", 1)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    try:
        code, _, err = run("export", "all.gz")
    finally:
        done.set()
        for thread in threads:
            thread.join()
        source.close()
    assert code == 0, err
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("SQLITE_PATH", "new.db")
    assert run("import", "all.gz", "--create")[0] == 0
    with closing(Storage(SqliteBackend("new.db"), auto_prune=False)) as new:
        for worker in range(4):
            session = new.sessions.get(f"writer {worker}")
            events = new._backend.read_rows("events", after=None, limit=1_000_000)  # type: ignore[attr-defined]
            counted = sum(1 for row in events if row[1] == f"writer {worker}")
            assert counted == (0 if session is None else session.data)


class Bare(MemoryBackend):
    """As an engine on `BackendBase` is, which has the members, and refuses."""

    snapshot = BackendBase.snapshot  # type: ignore[assignment]


def test_an_engine_without_the_optional_members(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Bare cannot export, import or copy: it has no `snapshot`"):
        export_rows(Bare(), BytesIO(), engine="bare", schema_level=None)
    with pytest.raises(ConfigurationError, match="object cannot export, import or copy"):
        moving(object())  # type: ignore[arg-type]
