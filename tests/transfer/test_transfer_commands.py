"""`assistly export`, `import` and `copy`."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from hashlib import sha256
from importlib.metadata import EntryPoint, EntryPoints
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg
import pytest

from assistly.storage import (
    ConfigurationError,
    Conflict,
    InvalidValue,
    MemoryBackend,
    NewJob,
    PostgresBackend,
    SqliteBackend,
    Storage,
    StorageCorrupt,
    plugins,
)
from assistly.storage.engine import BackendBase
from assistly.storage.engine.moving import MovingBackend, moving
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.settings import StorageSettings
from assistly.storage.testing.fixtures import on_a_thread
from assistly.storage.unfinished import COPY_COLLECTION
from assistly.transfer.copying import CopyReport, copy
from assistly.transfer.export import export_rows, import_rows, verify
from cli.conftest import run as run
from golden.making import levels, open_postgres, open_sqlite
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
    advice = "If this is the right one (SQLITE_PATH), `--create` creates it"
    assert run("import", "all.gz")[::2] == (1, f"assistly: there is no database yet: sqlite {new}. {advice}")
    assert not new.exists()
    assert run("import", "all.gz", "--create", "--by", "lee")[0] == 0
    assert event_of(new) == ("operator.import", {"by": "lee", **details})
    assert records(new) == records(old)
    code, _, err = run("import", "all.gz")
    assert code == 1
    assert "is not empty" in err


def test_the_journal_mode_of_the_source_stays(old: Path, run: Run) -> None:
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchall() == [("delete",)]
    before = old.read_bytes()
    assert run("copy", str(old), "new.db")[0] == 0
    assert old.read_bytes() == before
    with closing(sqlite3.connect("new.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]


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


def test_a_file_that_cannot_be_read_twice(old: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("export", "all.gz")[0] == 0
    os.mkfifo("pipe")
    monkeypatch.setenv("SQLITE_PATH", "new.db")
    writing = on_a_thread(lambda: Path("pipe").write_bytes(Path("all.gz").read_bytes()))
    assert run("import", "pipe", "--create")[0] == 0
    writing.result(timeout=10)
    assert event_of(Path("new.db"))[1]["file"] == "pipe"


def test_names_that_are_no_utf_8(old: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    name = b"\xff.gz".decode(errors="surrogateescape")
    assert run("export", name)[0] == 0
    monkeypatch.setenv("SQLITE_PATH", "new.db")
    assert run("import", name, "--create", "--by", name)[0] == 0
    action, payload = event_of(Path("new.db"))
    assert (action, payload["by"], payload["file"]) == ("operator.import", "?.gz", "?.gz")


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
    assert f"assistly: sqlite {old.with_name('back.db')} is not empty: it has documents. Give an empty" in err
    for target, place in (
        ("again.db", f"sqlite {old.with_name('again.db')}"),
        (None, "postgres postgresql://"),
    ):
        command = ("copy", str(old), target or f"{database_url}#{schema}_2")
        try:
            assert run(*command)[0] == 0
            code, _, err = run(*command)
        finally:
            drop(database_url, f"{schema}_2")
        assert code == 1
        assert f"assistly: {place}" in err
        assert f" holds a finished copy of sqlite {old}, made at 2" in err


def drop(database_url: str, schema: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'.encode())


class Shelf(MemoryBackend):
    """A plug-in that keeps its data for as long as the process lives."""

    def close(self) -> None:
        pass


shelf = Shelf()


def open_shelf(settings: StorageSettings) -> Shelf:
    return shelf


def test_to_a_plug_in_and_back(old: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = EntryPoints([EntryPoint("shelf", f"{__name__}:open_shelf", plugins.ENGINES)])
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: entries.select(group=group))
    assert run("copy", "old.db", "shelf")[0] == 0
    assert take_event(shelf)[0] == "operator.copy"
    assert records_of(shelf) == records(old)
    assert run("copy", "shelf", "shelf")[0] == 2
    with monkeypatch.context() as patched:
        patched.setenv("STORAGE_ENGINE", "shelf")
        assert run("export", "shelf.gz")[0] == 0
    assert take_event(shelf)[0] == "operator.export"
    assert run("import", "shelf.gz")[0] == 1
    assert run("copy", "shelf", "new.db")[0] == 0
    assert event_of(Path("new.db"))[0] == "operator.copy"
    assert records(Path("new.db")) == records(old)


@pytest.mark.parametrize(
    ("source", "target", "code", "message"),
    [
        ("nowhere.db", "new.db", 1, "there is no database yet: sqlite "),
        ("all.gz", "new.db", 1, "no SQLite database"),
        ("mysql://root:canary@host/db", "new.db", 1, "SOURCE: no engine supports mysql:// URLs"),
        ("old.db", "memory", 1, "TARGET: the memory engine lives in one process"),
        ("old.db", "sqlite://canary:canary@host/x", 1, "TARGET: a value that may contain a password is no"),
        ("old.db", "bot:canary@host/db", 1, "TARGET: sqlite_path (SQLITE_PATH): an address of Postgres"),
        (
            "old.db",
            "postgres//bot:canary@host/db",
            1,
            "TARGET: sqlite_path (SQLITE_PATH): an address of Postg",
        ),
        (
            "old.db",
            "jdbc:postgresql://canary/db",
            1,
            "TARGET: sqlite_path (SQLITE_PATH): an address of Postgr",
        ),
        ("old.db", "postgresql//canary/db", 1, "TARGET: sqlite_path (SQLITE_PATH): an address of Postgres"),
        (
            "old.db",
            "//bot:canary@host/db",
            1,
            "TARGET: sqlite_path (SQLITE_PATH): the address of a server is",
        ),
        (
            "old.db",
            "db/bot:canary@host",
            1,
            "TARGET: sqlite_path (SQLITE_PATH): the address of a server",
        ),
        (
            "x:mysql://canary",
            "new.db",
            1,
            "SOURCE: sqlite_path (SQLITE_PATH): the address of a server",
        ),
        ("old.db", "postgresql://bot:can@canary@host/db", 1, "TARGET: DATABASE_URL has an @ besides"),
        ("old.db", "postgresql://bot:a#canary@host/db", 1, "TARGET: DATABASE_URL has an invalid port"),
        (
            "old.db",
            "postgresql://bot:canary@/db?canary=canary",
            1,
            "TARGET: DATABASE_URL is not a Postgres URL",
        ),
        ("old.db", "n" * 300, 1, "File name too long"),
        ("n" * 300, "new.db", 1, "File name too long"),
        ("old.db", "postgresql://bot:canary@localhost:1/db", 3, "cannot connect to Postgres"),
        ("postgresql://bot:canary@localhost:1/db", "new.db", 3, "cannot connect to Postgres"),
    ],
)
def test_places_that_are_none(old: Path, run: Run, source: str, target: str, code: int, message: str) -> None:
    Path("all.gz").write_bytes(gzip.compress(b"{}"))
    found, out, err = run("copy", source, target)
    mistakes = [line for line in err.splitlines() if not line.startswith(("from: ", "to: "))]
    assert (found, out, len(mistakes)) == (code, "", 1)
    assert message in mistakes[0]
    assert "canary" not in err
    assert not Path("new.db").exists()


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_a_database_of_an_earlier_version_is_not_migrated_by_mistake(
    old: Path, run: Run, engine: str, database_url: str, schema: str
) -> None:
    level = levels(engine)[-2]
    if engine == "sqlite":
        open_sqlite(level, Path("other.db"))
        target = "other.db"
    else:
        open_postgres(level, database_url, schema)
        target = f"{database_url}#{schema}"
    code, _, err = run("copy", "old.db", target)
    assert code == 1
    assert f"the database lacks the migrations {levels(engine)[-1]}_" in err
    assert run("copy", "old.db", target)[2] == err


@pytest.mark.parametrize(
    "command",
    [
        ["export"],
        ["export", "-", "--json"],
        ["import"],
        ["import", "all.gz", "--creat"],
        ["copy", "old.db"],
        ["copy", "old.db", "old.db"],
        ["copy", "old.db", "new.db", "--live", "--prepare"],
    ],
)
def test_wrong_usage(old: Path, run: Run, command: list[str]) -> None:
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: assistly ")
    assert [path.name for path in old.parent.iterdir()] == ["old.db"]


@pytest.mark.parametrize("command", ["export", "import"])
@pytest.mark.parametrize("file", ["host=h password=canary", "postgresql://u:canary@h/db", "u:canary@h"])
def test_an_address_is_no_file(old: Path, run: Run, command: str, file: str) -> None:
    code, out, err = run(command, file)
    assert (code, out) == (2, "")
    assert "canary" not in err
    assert [path.name for path in old.parent.iterdir()] == ["old.db"]


@pytest.mark.parametrize("command", [["export", "all.gz"], ["import", "all.gz", "--create"]])
def test_a_server_that_is_down(
    old: Path, run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    assert run("export", "all.gz")[0] == 0
    before = Path("all.gz").read_bytes()
    monkeypatch.setenv("STORAGE_ENGINE", "postgres")
    monkeypatch.setenv("DATABASE_URL", "postgresql://bot:canary@localhost:1/db")
    code, out, err = run(*command)
    named, mistake = err.splitlines()
    assert (code, out, named) == (3, "", "storage: postgres postgresql://bot@localhost:1/db schema=public")
    assert "cannot connect" in mistake
    assert "canary" not in err
    assert Path("all.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing/all.gz", "cannot write missing/all.gz: No such file or directory"),
        (".", "cannot write .: Is a directory"),
        pytest.param(
            "full",
            "cannot write full: No space left on device",
            marks=pytest.mark.skipif(
                not Path("/dev/full").is_char_device(), reason="the system has no device that is always full"
            ),
        ),
    ],
)
def test_files_that_cannot_be_written(old: Path, run: Run, file: str, message: str) -> None:
    Path("full").symlink_to("/dev/full")
    code, out, err = run("export", file)
    assert (code, out, err) == (1, "", f"storage: sqlite {old}\nassistly: {message}")


def test_a_disk_that_is_full_leaves_the_old_file(
    old: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("real.gz").write_text("the old one")
    Path("all.gz").symlink_to("real.gz")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        code, _, err = run("export", "all.gz")
    assert code == 1
    assert err.splitlines()[1:] == ["assistly: cannot write all.gz: No space left on device"]
    assert Path("all.gz").read_text() == "the old one"
    assert [*old.parent.glob(".*")] == []
    assert not [row for row in records(old)[0]["events"] if row[1].startswith("operator.")]
    assert run("export", "all.gz")[0] == 0
    assert Path("all.gz").is_symlink()
    assert Path("real.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_a_reader_that_goes_away(old: Path) -> None:
    """As `assistly export - | head -c 1`."""
    command = "from assistly.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "export", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read().decode()
    assert (process.returncode, err) == (1, f"storage: sqlite {old}\n")


@pytest.mark.parametrize("is_reader", [True, False])
def test_writers_are_not_held_off(
    old: Path, run: Run, database_url: str, postgres: Storage, schema: str, role: str, is_reader: bool
) -> None:
    """By a role that may not lock the tables, and with --live."""
    postgres.queue.remove(postgres.queue.schedule("x", "hello").id)
    url = database_url.replace("//postgres", f"//{role}") if is_reader else database_url
    command = ["copy", f"{url}#{schema}", "new.db", *([] if is_reader else ["--live"])]
    if is_reader:
        code, _, err = run(*command)
        grant = f'GRANT SELECT ON ALL SEQUENCES IN SCHEMA "{schema}"'
        assert (code, f"assistly: the role may not read the assigned numbers: {grant}" in err) == (
            1,
            True,
        )
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f'{grant} TO "{role}"'.encode())
    code, out, err = run(*command)
    assert (code, "both sides hold the same" in out) == (0, True)
    assert "SOURCE was not blocked during the last step" in err
    with closing(Storage(SqliteBackend("new.db"), auto_prune=False)) as new:
        assert new.queue.schedule("x", "later").id == 2


def test_a_role_that_only_reads_exports(
    old: Path, run: Run, monkeypatch: pytest.MonkeyPatch, database_url: str, schema: str
) -> None:
    with closing(PostgresBackend(database_url, schema=schema)) as backend:
        backend.migrate()
    monkeypatch.setenv("STORAGE_ENGINE", "postgres")
    monkeypatch.setenv("DATABASE_URL", f"{database_url}&options=-cdefault_transaction_read_only%3Don")
    monkeypatch.setenv("STORAGE_SCHEMA", schema)
    code, out, err = run("export", "all.gz")
    assert (code, out) == (0, "exported 0 jobs, 5 rows in all\n")
    assert "the export is complete, but its event was not recorded: " in err


def harmed_file(old: str, new: str) -> BytesIO:
    """An export in which a text is replaced, with digests that are right."""
    backend = MemoryBackend()
    storage = Storage(backend, auto_prune=False)
    storage.queue.schedule("x", "hello", metadata={"a": "b"})
    storage.sessions.put("ann", "c")
    storage.approvals.add("one", 1)
    storage.snapshots.put("kind", 1)
    storage.platforms.pause("x")
    written = BytesIO()
    export_rows(backend, written, engine="memory", schema_level=None)
    text = gzip.decompress(written.getvalue()).decode()
    assert old in text
    *lines, _ = text.replace(old, new, 1).splitlines(keepends=True)
    digests: dict[str, Any] = {}
    for line in lines[1:]:
        value = json.loads(line)
        if isinstance(value, dict):
            kind = value["rows"]
            digests[kind] = 0, sha256()
        else:
            digests[kind] = digests[kind][0] + 1, digests[kind][1]
            digests[kind][1].update(line.encode(errors="surrogatepass"))
    trailer = {kind: {"rows": rows, "sha256": digest.hexdigest()} for kind, (rows, digest) in digests.items()}
    lines.append(json.dumps({"end": trailer}) + "\n")
    return BytesIO("".join(lines).encode(errors="surrogatepass"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 0', "its version is 0"),
        ('"version": 1', '"version": -3', "its version is -3"),
        ('"scheduled"', '"bogus"', "a row of jobs has the status 'bogus'"),
        ('"pending"', '"bogus"', "a row of approvals has the status 'bogus'"),
        ('"hello"', '"he\\u0000"', "a text in its jobs has NUL or a lone surrogate"),
        ('"hello"', '"he\\ud800"', "a text in its jobs has NUL or a lone surrogate"),
        ('"hello"', '"he\ud800"', "a text in its jobs has NUL or a lone surrogate"),
        ('\\"b\\"', '\\"\\\\ud800\\"', "a text in its jobs has NUL or a lone surrogate"),
        ('\\"b\\"', '\\"\\\\u0000\\"', "a text in its jobs has NUL or a lone surrogate"),
        ('\\"b\\"', "b", "a row of jobs has metadata that is not JSON"),
        ('["pauses"', '["transfer"', "it has the document of an unfinished copy"),
    ],
)
def test_rows_that_no_export_has_are_refused(old: str, new: str, message: str) -> None:
    assert verify(harmed_file('"hello"', '"hel\\u0001lo 한"'), "file")["jobs"].rows == 1
    with pytest.raises(StorageCorrupt, match=re.escape(f"file is damaged: {message}")):
        verify(harmed_file(old, new), "file")


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_numbers_that_are_too_large_are_refused(
    engine: str, tmp_path: Path, database_url: str, schema: str
) -> None:
    path = tmp_path / "new.db"
    backend = SqliteBackend(path) if engine == "sqlite" else PostgresBackend(database_url, schema=schema)
    with closing(backend), pytest.raises(StorageCorrupt, match="a number in its snapshots is too large"):
        import_rows(backend, harmed_file('["kind","1",', f'["kind","1",{2**64}'), "file")


@pytest.mark.parametrize("is_compressed", [True, False])
def test_no_byte_is_altered_unnoticed(is_compressed: bool) -> None:
    """What is still read has the rows that were exported."""
    backend = MemoryBackend()
    storage = Storage(backend, auto_prune=False)
    storage.queue.schedule("x", "hello")
    storage.sessions.put("ann", [1, None])
    written = BytesIO()
    digests = export_rows(backend, written, engine="memory", schema_level=None)
    whole = written.getvalue() if is_compressed else gzip.decompress(written.getvalue())
    refused = 0
    for place in range(len(whole)):
        for harmed in (
            whole[:place],
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :],
            whole[:place] + b"[]\n" + whole[place:],
        ):
            try:
                found = verify(BytesIO(harmed), "file")
            except (InvalidValue, StorageCorrupt):
                refused += 1
            else:
                assert found == digests
    assert refused > 2.9 * len(whole)


def test_a_file_that_changes_while_it_is_read(old: Path) -> None:
    source, target = MemoryBackend(), MemoryBackend()
    written = [BytesIO(), BytesIO()]
    first = export_rows(source, written[0], engine="memory", schema_level=None)
    Storage(source, auto_prune=False).queue.schedule("x", "later")
    export_rows(source, written[1], engine="memory", schema_level=None)
    written[1].seek(0)
    with pytest.raises(StorageCorrupt, match="changed while it was read"):
        import_rows(target, written[1], "file", digests=first)
    assert not target.read_rows("jobs", after=None, limit=1)


def test_no_bar_beside_json(old: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    assert "\x1b" in run("export", "all.gz")[2]
    assert run("export", "all.gz", "--json")[2].split() == ["storage:", "sqlite", str(old)]
    assert started == []


def _in_a_terminal(*arguments: str, **environment: str) -> str:
    """Run the command with stderr on a terminal of 80 columns; return what it wrote there."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-c", "from assistly.cli import main; main()", *arguments]
    environment = {**os.environ, "TERM": "xterm-256color", **environment}
    written = b""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        with suppress(OSError):
            while read := os.read(own, 65536):
                written += read
    os.close(own)
    assert process.returncode == 0
    return written.decode()


def test_a_bar_in_a_terminal(old: Path) -> None:
    with closing(Storage(SqliteBackend(old), auto_prune=False)) as storage:
        storage.queue.schedule_many(
            [NewJob("x", f"job {number}") for number in range(5000)], returning="none"
        )
    plain = _in_a_terminal("copy", "old.db", "new.db", NO_COLOR="1")
    assert re.search(r"copy jobs [━╸ ]+ [0-9,]+ rows +[0-9,]+ rows/s +[0-9:]+", plain)
    assert re.search(r"compare jobs [━╸ ]+ [0-9,]+ rows +[0-9,]+ rows/s +[0-9:]+", plain)
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", plain)
    frames = re.split(r"\r|\n|\x1b\[[0-9;?]*[A-Za-z]", plain)
    assert 40 < max(len(frame) for frame in frames if " rows " in frame) < 80
    assert re.search(r"\x1b\[[0-9;]*[34][0-9]", _in_a_terminal("export", "all.gz"))


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
        assert target.documents.list(COPY_COLLECTION, after=None, limit=2)
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
        assert not target.documents.list(COPY_COLLECTION, after=None, limit=2)


@pytest.mark.parametrize("step", ["copy", "compare"])
def test_two_copies_at_the_same_time(old: Path, step: str) -> None:
    """One of them is done, and the other one says so instead of finishing it again."""
    source, target = SqliteBackend(old), MemoryBackend()
    others: list[CopyReport] = []

    def progress(at: str, kind: str, rows: int, expected: int | None) -> None:
        if at == step and not others:
            others.append(copy(source, target, identity="old", hold_writers=False, closing=count))

    def count(storage: Storage) -> None:
        storage.metrics.increment("copies")

    with closing(source), pytest.raises(Conflict, match="another process is copying into"):
        copy(source, target, identity="old", hold_writers=False, closing=count, progress=progress)
    assert [one.resumed for one in others] == [True]
    assert Storage(target, auto_prune=False).metrics.read().counters["copies"] == 1


def test_a_copy_in_two_commands(old: Path, run: Run) -> None:
    """What is written between them is found by the second one."""
    code, out, _ = run("copy", "old.db", "new.db", "--prepare")
    assert (code, out) == (0, "prepared: the same command without --prepare finishes the copy\n")
    with closing(Storage(SqliteBackend(old), auto_prune=False)) as source:
        source.queue.schedule("x", "written meanwhile")
        source.sessions.delete("user 00")
    assert json.loads(run("copy", "old.db", "new.db", "--prepare", "--json")[1]) == {"finished": False}
    before = records(old)
    code, out, _ = run("copy", "sqlite:///./old.db", "new.db", "--json", "--by", "kim", "--note", "it grew")
    report = json.loads(out)
    assert (code, report["finished"], report["resumed"], report["held"]) == (0, True, True, True)
    assert report["kinds"]["jobs"]["source_sha256"] == report["kinds"]["jobs"]["target_sha256"]
    details = {"by": "kim", "note": "it grew", "source": f"sqlite {old}"}
    assert event_of(Path("new.db")) == ("operator.copy", details)
    assert records(Path("new.db")) == before


@pytest.mark.parametrize("spelling", ["", "sqlite:///./", "link", "hard link", "~/"])
def test_a_storage_is_not_copied_onto_itself(
    old: Path, run: Run, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(old.parent))
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
        assert not backend.documents.list(COPY_COLLECTION, after=None, limit=1)
        Storage(backend, auto_prune=False).sessions.put("ann", 1)
        code, _, err = run("copy", url, other)
        assert (code, "is not empty" in err) == (1, True)
        assert backend.read_rows("documents", after=None, limit=9) == []
        assert len(backend.read_rows("sessions", after=None, limit=9)) == 1


_WRITER = """
import sys
from itertools import count
from assistly.storage import StorageUnavailable, open_storage
storage = open_storage(auto_prune=False)
for number in count():
    name = f"writer {sys.argv[1]}, {number}"
    try:
        with storage.transaction() as tx:
            tx.nonces.register(name)
            tx.queue.schedule("x", name)
    except StorageUnavailable:
        continue
    print(number, flush=True)
"""


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_under_load_it_is_of_one_moment(
    engine: str, old: Path, run: Run, monkeypatch: pytest.MonkeyPatch, database_url: str, schema: str
) -> None:
    """Other processes write pairs in one transaction each: a nonce and a job."""
    monkeypatch.setenv("STORAGE_ENGINE", engine)
    if engine == "postgres":
        monkeypatch.setenv("DATABASE_URL", database_url)
        monkeypatch.setenv("STORAGE_SCHEMA", schema)
    assert run("migrate")[0] == 0
    with ExitStack() as stack:
        for number in range(2):
            writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(number)], stdout=subprocess.PIPE)
            stack.enter_context(writer)
            stack.callback(writer.kill)
            assert writer.stdout is not None
            assert int(writer.stdout.readline()) == 0
        code, _, err = run("export", "all.gz")
        assert code == 0, err
    kinds: dict[str, set[str]] = {}
    place = {"nonces": 1, "jobs": 3}
    for line in gzip.decompress(Path("all.gz").read_bytes()).splitlines():
        value = json.loads(line)
        if isinstance(value, dict):
            kind = value.get("rows", "")
        elif kind in place and value[place[kind]].startswith("writer "):
            kinds.setdefault(kind, set()).add(value[place[kind]])
    assert len(kinds["jobs"]) >= 2
    assert kinds["nonces"] == kinds["jobs"]


class Bare(MemoryBackend):
    """As an engine on `BackendBase` is, which has the members, and refuses."""

    snapshot = BackendBase.snapshot  # type: ignore[assignment]


def test_an_engine_without_the_optional_members(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError,
        match="Bare cannot export, import or copy: it lacks the optional member `snapshot`",
    ):
        export_rows(Bare(), BytesIO(), engine="bare", schema_level=None)
    with pytest.raises(ConfigurationError, match="object cannot export, import or copy"):
        moving(object())  # type: ignore[arg-type]
