"""`assistly doctor` on SQLite: each check has a trouble that it finds.

The kind of the file system, the free space of the disk and a second copy of SQLite cannot be had in a test:
the file that lists the mounts, the call that measures the disk and the list of loaded modules are replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from assistly import doctor
from assistly.doctor import sqlite as checks
from assistly.storage import InvalidValue, SqliteBackend, Storage, open_storage
from assistly.storage.engines.sqlite import inspection
from assistly.storage.engines.sqlite.access import connect_without_log
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.engines.sqlite.logs import pages_missing_in_file
from waiting import until

Finding = dict[str, Any]
Check = Callable[..., list[Finding]]
Run = Callable[..., tuple[int, str, str]]
Sql = Callable[[str], list[Any]]

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)

FILE = Path("cli.db")


@pytest.fixture(autouse=True)
def _migrated(engine: str) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.migrate()


def changed_after(log: Path, path: Path = FILE) -> None:
    """The times of files are measured in ticks of some milliseconds."""

    def is_newer() -> bool:
        path.chmod(0o600)
        return path.stat().st_ctime_ns > log.stat().st_ctime_ns

    until(is_newer)


def verdict(found: list[Finding]) -> str:
    (one,) = found
    return str(one["verdict"])


@pytest.mark.parametrize("version", ["3.7.0", "3.40.1", "3.44.5", "3.44.7", "3.50.6", "3.51.2"])
def test_versions_with_the_bug(version: str, engine: str) -> None:
    found = checks.of_version(tuple(map(int, version.split("."))))
    assert (str(found.verdict), version in found.reason) == ("warning", True)
    assert found.mend is not None
    assert "assistly[sqlite]" in found.mend
    assert "Not in a program that also opens the file with the standard module sqlite3" in found.mend


@pytest.mark.parametrize("version", ["3.6.23", "3.44.6", "3.50.7", "3.51.3", "3.52.0"])
def test_versions_without_it(version: str, engine: str) -> None:
    assert str(checks.of_version(tuple(map(int, version.split(".")))).verdict) == "ok"


def test_this_version(check: Check) -> None:
    (found,) = check("sqlite-version")
    assert sqlite3.sqlite_version in found["reason"]


def test_two_copies_of_sqlite(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict(check("sqlite-copies")) in ("ok", "warning")  # two where the extra is installed
    other = ModuleType("apsw")
    other.sqlite_lib_version = lambda: "3.49.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apsw", other)
    (found,) = check("sqlite-copies")
    assert (found["verdict"], "apsw (3.49.0)" in found["reason"]) == ("warning", True)


def test_a_damaged_file(run: Run, check: Check, sql: Sql) -> None:
    with open_storage(auto_prune=False) as storage:
        for number in range(200):
            storage.queue.schedule("x", str(number) * 10)
    assert verdict(check("integrity")) == "ok"
    ((page,),) = sql("SELECT rootpage FROM sqlite_master WHERE name = 'idx_queue_due'")
    ((size,),) = sql("PRAGMA page_size")
    sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with FILE.open("r+b") as file:
        file.seek(page * size - 64)
        file.write(b"\xff" * 32)
    (found,) = check("integrity")
    assert (found["verdict"], "the file is damaged: " in found["reason"]) == ("problem", True)
    assert run("doctor", "--only", "integrity")[0] == 1


def test_rows_that_do_not_fit_a_check_are_no_damage(check: Check, sql: Sql) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.events.append("a", 1)
    sql("ALTER TABLE assistly_events ADD COLUMN theirs INTEGER")
    sql("PRAGMA writable_schema = ON")
    sql("UPDATE sqlite_master SET sql = replace(sql, 'theirs INTEGER', 'theirs INTEGER CHECK (id > 5)')")
    sql("PRAGMA wal_checkpoint(TRUNCATE)")
    (found,) = check("integrity")
    assert found["verdict"] == "warning"
    assert "the file is not damaged, but stored rows violate a CHECK" in found["reason"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.symlink_to(path), "symbolic link"),
        (Path.mkdir, "is a folder"),
        (os.mkfifo, "is no regular file"),
    ],
)
def test_what_is_no_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Any], said: str
) -> None:
    make(Path("other.db"))
    monkeypatch.setenv("SQLITE_PATH", "other.db")
    code, out, err = run("doctor")
    assert (code, "Traceback" in err) == (1, False)
    assert said in out.replace("\n            ", " ")
    assert "the server runs" not in out


def test_an_index_that_lacks_entries(check: Check, sql: Sql) -> None:
    """As a lost write leaves it. The rows of sqlite_master are swapped, since SQLite keeps an index right."""
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "a")
    sql("CREATE TABLE empty (due_at INTEGER, status TEXT)")
    sql("CREATE INDEX empty_index ON empty (due_at) WHERE status IN ('scheduled', 'retrying')")
    sql("PRAGMA writable_schema = ON")
    sql(
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'empty_index') "
        "WHERE name = 'idx_queue_due'"
    )
    (found,) = check("integrity")
    assert found["verdict"] == "problem"
    assert "row 1 missing from index idx_queue_due" in found["reason"]


def test_a_file_that_another_process_uses(run: Run, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_BUSY_SECONDS", 0)
    sql("PRAGMA journal_mode = DELETE")
    sql("BEGIN EXCLUSIVE")
    code, out, _ = run("doctor", "--only", "connection", "--json")
    (found,) = json.loads(out)["findings"]
    assert (code, "locked" in found["reason"]) == (3, True)
    assert found["mend"] == "another process uses the file: wait until it has finished, or stop it"


def test_a_folder_that_may_not_be_read(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the answer of SQLite is replaced."""

    def refuse(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(inspection, "connect_to_look", refuse)
    (found,) = check("connection")
    assert (found["verdict"], "server" in found["mend"]) == ("problem", False)
    assert "permissions" in found["mend"]


def test_no_database(run: Run, check: Check) -> None:
    FILE.write_bytes(b"no database" * 1000)
    found = check("connection", "integrity")
    assert [each["verdict"] for each in found] == ["problem", "not checked"]
    assert "the file is no SQLite database" in found[0]["reason"]
    assert run("doctor")[0] == 1
    assert FILE.read_bytes() == b"no database" * 1000


def test_a_log_beside_a_replaced_file(run: Run, check: Check, tmp_path: Path) -> None:
    """Half of what was written is in the log of the old file; the file is replaced by an older copy of it."""
    backup, log = tmp_path / "backup.db", Path("cli.db-wal")
    with closing(Storage(SqliteBackend(FILE), auto_prune=False)) as storage:
        storage.queue.schedule("x", "before")
        with closing(sqlite3.connect(FILE)) as connection:
            connection.execute("VACUUM INTO 'backup.db'")
        storage.queue.schedule("x", "after")
        assert verdict(check("old-wal")) == "ok"
        kept = log.read_bytes()
    for path in Path().glob("cli.db*"):
        path.unlink()
    log.write_bytes(kept)
    shutil.copyfile(backup, FILE)
    changed_after(log)
    files = {path.name: path.read_bytes() for path in Path().glob("cli.db*") if path.suffix != ".db-shm"}
    found = {each["check"]: each for each in check("old-wal", "platforms")}
    assert found["old-wal"]["verdict"] in ("warning", "problem")
    assert "pages of the log are not in the file" in found["old-wal"]["reason"]
    assert "delete cli.db-wal" in found["old-wal"]["mend"]
    assert found["platforms"]["reason"] == "cli.db-wal may belong to another file: see the check old-wal"
    assert {
        path.name: path.read_bytes() for path in Path().glob("cli.db*") if path.suffix != ".db-shm"
    } == files
    for path in (log, Path("cli.db-shm")):
        path.unlink(missing_ok=True)
    assert [each["verdict"] for each in check("old-wal", "platforms")] == ["ok", "ok"]


def test_a_log_that_does_not_fit(check: Check, tmp_path: Path) -> None:
    """The log of one database, beside another one."""
    log = Path("cli.db-wal")
    with closing(Storage(SqliteBackend(FILE), auto_prune=False)) as storage:
        storage.queue.schedule("x", "a")
        kept = log.read_bytes()
    with closing(sqlite3.connect("other.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE other (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO other (text) VALUES (?)", [("x" * 500,)] * 500)
        connection.commit()
    log.write_bytes(kept)
    Path("other.db").replace(FILE)
    changed_after(log)
    found = {each["check"]: each for each in check("connection", "old-wal")}
    assert found["old-wal"]["verdict"] == "problem"
    assert "do not match" in found["old-wal"]["reason"]


def test_a_log_that_was_brought_into_the_file_belongs_to_it(check: Check, sql: Sql) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "a")
        sql("PRAGMA wal_checkpoint(PASSIVE)")
        assert Path("cli.db-wal").stat().st_size > 0
        assert verdict(check("old-wal")) == "ok"


def test_a_log_of_which_a_reader_holds_a_part_back(check: Check, sql: Sql) -> None:
    with open_storage(auto_prune=False) as storage, closing(sqlite3.connect(FILE)) as reader:
        storage.queue.schedule("x", "a")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM assistly_queue_jobs").fetchall()
        storage.queue.schedule("x", "b")
        ((_, frames, moved),) = sql("PRAGMA wal_checkpoint(PASSIVE)")
        assert 0 < moved < frames
        changed_after(Path("cli.db-wal"))
        assert verdict(check("old-wal")) == "ok"


def test_a_log_of_a_file_that_became_shorter(check: Check, sql: Sql) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.events.append("a", "x" * 100_000)
        sql("DELETE FROM assistly_events")
        sql("VACUUM")
        sql("PRAGMA wal_checkpoint(PASSIVE)")
        changed_after(Path("cli.db-wal"))
        assert verdict(check("old-wal")) == "ok"


def locks_of_this_process() -> list[list[str]]:
    """The kind and the range of bytes of each lock on the file and on the index of its log."""
    inodes = {str(path.stat().st_ino) for path in (FILE, Path("cli.db-shm"))}
    fields = (line.split()[1:] for line in Path("/proc/locks").read_text().splitlines())
    return sorted(
        [kind, access, inode, first, last]
        for kind, _, access, process, device, first, last in (each for each in fields if len(each) == 7)
        if process == str(os.getpid()) and (inode := device.split(":")[-1]) in inodes
    )


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system lists no locks")
def test_it_keeps_the_locks_of_its_process(check: Check) -> None:
    """Without them, another process would delete the log, with what this one writes to it later."""
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "a")
        changed_after(Path("cli.db-wal"))
        before = locks_of_this_process()
        assert before
        found = check("old-wal")
        assert locks_of_this_process() == before
    assert verdict(found) == "ok"


def test_a_log_that_is_just_being_brought_into_the_file(tmp_path: Path, engine: str) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "a")
        for end in ("-wal", "-shm", ""):
            shutil.copyfile(f"cli.db{end}", f"copy.db{end}")
    path, index = Path("copy.db"), bytearray(Path("copy.db-shm").read_bytes())
    changed_after(Path("copy.db-wal"), path)
    assert pages_missing_in_file(path) > 0
    index[128] = 1
    Path("copy.db-shm").write_bytes(index)
    assert pages_missing_in_file(path) == 0


def test_it_leaves_no_log(run: Run) -> None:
    for arguments in ((), ("--only", "integrity")):
        run("doctor", *arguments)
        assert [path.name for path in Path().iterdir()] == ["cli.db"]


def files() -> dict[str, tuple[bytes, int]]:
    """What the file and what is beside it hold, and when that was written."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path().glob("cli.db*")}


def left_by_a_killed_process(end: str) -> None:
    """Copies of the file, its log and the index, as a kill leaves them, under names that end so."""
    with closing(Storage(SqliteBackend(FILE), auto_prune=False)) as storage:
        storage.queue.schedule("x", "a")
        for path in Path().glob("cli.db*"):
            shutil.copyfile(path, path.name.replace("cli", end))


def test_it_keeps_the_log_of_a_killed_process(run: Run) -> None:
    left_by_a_killed_process("left")
    for end in ("", "-wal", "-shm"):
        Path(f"left.db{end}").replace(f"cli.db{end}")
    before = files()
    for _ in range(2):
        code, out, _ = run("doctor")
        assert (code, "not checked" in out) == (0, False)
    assert files() == before
    with open_storage(auto_prune=False) as storage:
        assert len(storage.queue.list()) == 1


def test_a_log_that_came_after_the_file(check: Check) -> None:
    """The two were copied from a folder where they did not belong together."""
    left_by_a_killed_process("left")
    Path("cli.db").unlink()
    with closing(sqlite3.connect("cli.db")) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE theirs (id INTEGER PRIMARY KEY, text TEXT)")
        other.executemany("INSERT INTO theirs (text) VALUES (?)", [("x" * 500,)] * 500)
        other.commit()
    for end in ("-wal", "-shm"):
        Path(f"left.db{end}").replace(f"cli.db{end}")
    before = files()
    for _ in range(2):
        found = {each["check"]: each for each in check("old-wal", "integrity", "expired-leases", "schema")}
        assert found["old-wal"]["verdict"] == "problem"
        assert "the file is intact without cli.db-wal" in found["old-wal"]["reason"]
    assert files() == before


@pytest.mark.parametrize("content", ["a backup", "nothing"])
def test_it_sets_no_journal_mode(run: Run, content: str) -> None:
    with closing(sqlite3.connect("cli.db")) as connection:
        connection.execute("VACUUM INTO 'backup.db'")
    Path("backup.db").replace(FILE)
    if content == "nothing":
        FILE.write_bytes(b"")
    before = files()
    run("doctor")
    assert files() == before


def test_a_path_that_is_not_utf8(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"b\xff.db")
    left_by_a_killed_process("left")
    for end in ("", "-wal", "-shm"):
        try:
            Path(f"left.db{end}").replace(f"{name}{end}")
        except OSError:
            pytest.skip("the file system takes no such name")
    monkeypatch.setenv("SQLITE_PATH", name)
    assert [each["verdict"] for each in check("connection", "old-wal", "integrity")] == ["ok"] * 3
    with closing(connect_without_log(Path(name))) as alone:
        assert alone.execute("PRAGMA quick_check").fetchall() == [("ok",)]


def test_a_long_log(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "a")
        assert verdict(check("long-transactions")) == "ok"
        monkeypatch.setattr(checks, "LONG_LOG", 1)
        assert verdict(check("long-transactions")) == "warning"


@pytest.mark.parametrize("name", ["cli.db", "cli.db-wal"])
def test_others_can_open_the_file(check: Check, name: str) -> None:
    with open_storage(auto_prune=False) as storage:
        storage.queue.schedule("x", "a")
        assert verdict(check("file-modes")) == "ok"
        Path(name).chmod(0o644)
        (found,) = check("file-modes")
    assert found["verdict"] == "warning"
    assert f"{name} has the mode 0644" in found["reason"]
    assert found["mend"] == f"chmod 600 {Path(name).absolute()}"


def test_everybody_can_replace_the_file(check: Check) -> None:
    Path().chmod(0o777)
    (found,) = check("file-modes")
    assert (found["verdict"], "everybody can replace the file" in found["reason"]) == ("warning", True)
    Path().chmod(0o1777)
    assert verdict(check("file-modes")) == "ok"


def test_this_user_cannot_write(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the answer of the system is replaced."""
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "cli.db")
    (found,) = check("file-modes")
    assert (found["verdict"], "cannot read and write cli.db" in found["reason"]) == ("problem", True)


def test_the_file_of_another_user(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: FILE.stat().st_uid + 1)
    found = check("file-modes")
    assert {each["verdict"] for each in found} == {"warning"}
    assert "cli.db belongs to another user" in found[0]["reason"]


@pytest.mark.parametrize(
    ("kind", "expected"), [("ext4", "ok"), ("nfs4", "problem"), ("fuse.sshfs", "problem")]
)
def test_file_systems(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: str
) -> None:
    assert verdict(check("file-system")) in ("ok", "not checked")
    mounts = tmp_path / "mounts"
    point = str(tmp_path.resolve()).replace(" ", "\\040")
    mounts.write_text(
        "22 1 8:1 / / rw - overlay overlay rw\n"
        f"30 22 0:5 / {point} rw,relatime shared:1 - {kind} server:/x rw\n"
        f"31 22 0:6 / {point}x rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(checks, "MOUNTS", mounts)
    (found,) = check("file-system")
    assert (found["verdict"], kind in found["reason"]) == (expected, True)
    monkeypatch.setattr(checks, "MOUNTS", tmp_path / "none")
    assert verdict(check("file-system")) == "not checked"


@pytest.mark.parametrize(
    ("free", "expected"), [(10**12, "ok"), (checks.SCARCE_BYTES - 1, "warning"), (1000, "problem")]
)
def test_free_space(check: Check, monkeypatch: pytest.MonkeyPatch, free: int, expected: str) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**13, 0, free))
    assert verdict(check("free-disk")) == expected


def test_a_clock_that_was_set_back(check: Check, sql: Sql) -> None:
    far = datetime(9999, 12, 1, tzinfo=UTC)
    with open_storage(auto_prune=False) as storage:
        storage.events.append("a", 1, created_at=far)
        storage.queue.schedule("x", "a", far)
        storage.queue.schedule("x", "a", now=far)
        storage.prune()
    assert verdict(check("clock")) == "ok"
    sql("UPDATE assistly_queue_jobs SET created_at = created_at + 7200000000 WHERE id = 1")
    (found,) = check("clock")
    assert found["verdict"] == "problem"
    assert "a stored time is 1 h 59 min ahead" in found["reason"].replace(" 2 h ", " 1 h 59 min ")


def test_several_copies_do_no_harm_in_a_process_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("apsw")
    other.sqlite_lib_version = lambda: "3.49.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apsw", other)
    verdicts = []
    for owns_process in (True, False):
        (found,) = [
            each
            for each in doctor.run(["sqlite-copies"], owns_process=owns_process).findings
            if each.check == "sqlite-copies"
        ]
        verdicts.append(str(found.verdict))
    assert verdicts == ["ok", "warning"]
    with pytest.raises(InvalidValue, match="no check is named nothing"):
        doctor.run(["nothing"])
