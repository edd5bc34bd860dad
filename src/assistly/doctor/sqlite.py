"""Checks of an SQLite file, and of the copy of SQLite that opens it."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import TYPE_CHECKING, Any

from assistly.storage.errors import StorageCorrupt
from assistly.views.text import file_size, span

from .checks import Check
from .context import CheckContext
from .findings import NotChecked, Outcome, ok, problem, warning

if TYPE_CHECKING:
    from assistly.storage.engines.sqlite.connections import Connection

ENGINES = ("sqlite",)
MOUNTS = Path("/proc/self/mountinfo")

LONG_LOG = 64 * 2**20
"""The size, in bytes, of a log that has long not been checkpointed. Checkpoints happen from 4 MB on."""

SCARCE_BYTES = 500 * 10**6
HARDLY_ANY_BYTES = 50 * 10**6

AHEAD = timedelta(minutes=1)
"""How far a stored time may be ahead of the clock of this machine."""

FAR = timedelta(days=366)
"""No clock is set back by this much: such a time came from a caller."""

# The times of events, approvals and others come from callers.
_CLOCK_TIMES = (
    ("assistly_queue_jobs", "created_at"),
    ("assistly_queue_jobs", "updated_at"),
    ("assistly_sessions", "updated_at"),
    ("assistly_retention", "pruned_at"),
)

_FIRST_WITH_BUG, _LAST_WITH_BUG = (3, 7, 0), (3, 51, 2)
_REPAIRED = {(3, 44, 6), (3, 50, 7)}
_INSTALL = (
    "python -m pip install 'assistly[sqlite]', which brings a recent SQLite. Not in a program that also "
    "opens the file with the standard module sqlite3, as Django and SQLAlchemy do: use a Python with SQLite "
    "3.51.3 or later there"
)
_COPIES = ("sqlite3", "pysqlite3", "apsw", "sqlcipher3")
_NETWORK = {
    *("nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "beegfs"),
    *("9p", "gpfs", "gfs2", "ocfs2", "ncpfs", "coda", "davfs", "davfs2", "orangefs", "fuse.sshfs"),
    *("fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.davfs2"),
    *("fuse.grpcfuse", "fuse.osxfs"),
}
_MOST_DAMAGES = 10
_CHECK_FAILED = "CHECK constraint failed in "


def check_sqlite_version(_: CheckContext) -> Iterable[Outcome]:
    """Whether this SQLite has the bug that can damage a file in WAL mode."""
    from assistly.storage.engines.sqlite.driver import sqlite3

    return [of_version(sqlite3.sqlite_version_info)]


def of_version(version: tuple[int, ...]) -> Outcome:
    """The outcome for a version of SQLite."""
    shown = ".".join(map(str, version))
    if _FIRST_WITH_BUG <= version <= _LAST_WITH_BUG and version not in _REPAIRED:
        return warning(
            f"SQLite {shown} has a rare bug: if several connections write and checkpoint at the same moment, "
            "the file can be damaged (3.7.0 to 3.51.2, except 3.44.6 and 3.50.7)",
            _INSTALL,
        )
    return ok(f"SQLite {shown} does not have the write-ahead log bug")


def check_sqlite_copies(context: CheckContext) -> Iterable[Outcome]:
    """Whether this process has loaded only one copy of SQLite."""
    from assistly.storage.engines.sqlite.driver import sqlite3

    loaded = loaded_copies(sys.modules)
    return [of_copies(sqlite3.__name__, loaded, owns_process=context.owns_process)]


def loaded_copies(modules: Mapping[str, ModuleType]) -> dict[str, str]:
    """The versions of SQLite that the loaded modules contain, by module."""
    return {name: _version_of(modules[name]) for name in _COPIES if name in modules}


def _version_of(module: Any) -> str:
    if hasattr(module, "sqlite_lib_version"):  # apsw
        return str(module.sqlite_lib_version())
    return str(getattr(module, "sqlite_version", "?"))


def of_copies(engines: str, loaded: Mapping[str, str], *, owns_process: bool = False) -> Outcome:
    """The outcome for the loaded copies; `engines` is the one that the engine uses.

    `owns_process`: nobody else opens the file in this process.
    """
    shown = ", ".join(f"{name} ({version})" for name, version in loaded.items())
    if len(loaded) < 2:
        return ok(f"one copy of SQLite is loaded: {shown}")
    if owns_process:
        return ok(f"several copies of SQLite are loaded: {shown}. Only {engines} opens the file here")
    return warning(
        f"this process has loaded several copies of SQLite: {shown}. The engine opens the file with "
        f"{engines}. Two copies that open the same file in one process drop each other's locks",
        "open the file in your own code only with `from sqlite_utils.utils import sqlite3`",
    )


def check_integrity(context: CheckContext) -> Iterable[Outcome]:
    """Whether SQLite finds damage in the file. Reads the whole file."""
    rows = context.file_connection().rows(f"PRAGMA integrity_check({_MOST_DAMAGES})")
    found = [" ".join(str(text).split()) for (text,) in rows]
    if found == ["ok"]:
        return [ok("SQLite finds no damage")]
    broken = "; ".join(sorted({text for text in found if text.startswith(_CHECK_FAILED)}))
    damages = "; ".join(text for text in found if not text.startswith(_CHECK_FAILED))
    outcomes = []
    if broken:
        outcomes.append(
            warning(
                f"the file is not damaged, but stored rows violate a CHECK: {broken}",
                "see the check schema: if the migrations do not create the CHECK, the application that added "
                "it has to correct it or the rows; the storage cannot change these rows",
            )
        )
    if not damages:
        return outcomes
    return [
        *outcomes,
        problem(
            f"the file is damaged: {damages}",
            "stop all processes that use it, keep a copy of it with its -wal, and restore a backup. Without "
            "one, `sqlite3 FILE .recover` saves what is readable; `REINDEX` is enough if only indexes are "
            "damaged",
        ),
    ]


def check_old_log(context: CheckContext) -> Iterable[Outcome]:
    """Whether the -wal file belongs to the file beside it."""
    missing, log = context.pages_missing_in_file, f"{context.path.name}-wal"
    if not missing:
        return [_of_log(context, log)]
    reason = (
        f"the file changed after {log}, and {missing} pages of the log are not in the file: the file was "
        "probably replaced, for example by a backup, and the log belongs to the previous file. SQLite would "
        "apply it"
    )
    mend = (
        f"stop all processes that use it. If the file was replaced, delete {log} and "
        f"{context.path.name}-shm; if it was not, the next write resolves this"
    )
    if not _is_sound(context.file_connection):
        return [problem(f"{reason}. The two do not match", mend)]
    return [warning(reason, mend)]


def _of_log(context: CheckContext, log: str) -> Outcome:
    """The outcome if the file did not change after its log: they may have been copied together."""
    from assistly.storage.engines.sqlite.inspection import open_without_log

    if _size(context.path.with_name(log)) == 0:
        return ok("everything in the log is in the file")
    if _is_sound(context.file_connection):
        return ok("the log belongs to the file")
    with closing(open_without_log(context.path)) as alone:
        if not _is_sound(lambda: alone):
            return ok("the file is damaged even without the log: see the check integrity")
    return problem(
        f"the file is intact without {log}, and damaged with it: the log probably belongs to another file. "
        "SQLite would apply it, and damage the file permanently",
        f"stop all processes that use it, keep a copy of the file and of {log}, and then delete {log} and "
        f"{context.path.name}-shm",
    )


def _is_sound(connection: Callable[[], Connection]) -> bool:
    try:
        return connection().rows("PRAGMA quick_check(1)") == [("ok",)]
    except (StorageCorrupt, NotChecked):
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def check_file_modes(context: CheckContext) -> Iterable[Outcome]:
    """Whether others can read or replace the file, and whether this user can write to it."""
    files = [path for path in _files(context.path) if path.exists()]
    if not files:
        raise NotChecked("there is no file")
    found = [outcome for path in files for outcome in _of_mode(path)]
    folder = context.path.parent
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        found.append(
            warning(
                f"everybody can replace the file: {folder} is writable for all users",
                f"chmod o-w {quote(str(folder))}",
            )
        )
    if not os.access(folder, os.W_OK):
        found.append(problem(f"this user cannot write to {folder}, where SQLite creates the log", _AS_OWNER))
    return found or [ok(f"mode {stat.S_IMODE(files[0].stat().st_mode):04o}, and this user can write")]


_AS_OWNER = "run all processes as the user that owns the file"


def _of_mode(path: Path) -> Iterator[Outcome]:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield warning(
            f"{path.name} has the mode {mode:04o}: others can open it", f"chmod 600 {quote(str(path))}"
        )
    if not os.access(path, os.R_OK | os.W_OK):
        yield problem(f"this user cannot read and write {path.name}", _AS_OWNER)
    elif hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        yield warning(f"{path.name} belongs to another user (uid {found.st_uid})", _AS_OWNER)


def _files(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]


def check_file_system(context: CheckContext) -> Iterable[Outcome]:
    """Whether the file is on a local disk."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        raise NotChecked(f"cannot read {MOUNTS}, so the type of the file system is not known") from None
    kind = file_system_of(Path(os.path.realpath(context.path)), mounts)
    if kind is None:
        raise NotChecked("the file is on none of the listed mounts")
    if kind in _NETWORK:
        return [
            problem(
                f"the file is on a network file system ({kind}), where locks and the write-ahead log do not "
                "work between machines: it can be damaged",
                "move it to a local disk (SQLITE_PATH), or to Postgres with `assistly copy`",
            )
        ]
    return [ok(f"the file is on {kind}")]


def file_system_of(path: Path, mounts: str) -> str | None:
    """The type of the file system that a path is on, from the text of /proc/self/mountinfo."""
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(_unescaped(fields[4]))
        depth = len(point.parts)
        # Of two mounts at the same path, the later one hides the other.
        if path.is_relative_to(point) and (best is None or depth >= best[0]):
            best = depth, after.split(" ")[0]
    return None if best is None else best[1]


def _unescaped(text: str) -> str:
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, character)
    return text


def check_free_disk(context: CheckContext) -> Iterable[Outcome]:
    """Whether the disk has room for new records and for a copy of the file."""
    folder = next(place for place in context.path.parents if place.exists())
    free = shutil.disk_usage(folder).free
    size = _size(context.path)
    reason = f"{file_size(free)} of disk space is free, and the file has {file_size(size)}"
    mend = "free disk space: writes fail on a full disk, and a backup needs as much space as the file"
    if free < HARDLY_ANY_BYTES:
        return [problem(reason, mend)]
    return [warning(reason, mend) if free < max(SCARCE_BYTES, size) else ok(reason)]


def check_long_log(context: CheckContext) -> Iterable[Outcome]:
    """Whether a reader prevents the checkpoint of the log."""
    size = _size(_files(context.path)[1])
    reason = f"the log is {file_size(size)}"
    if size < LONG_LOG:
        return [ok(reason)]
    return [
        warning(
            f"{reason}: some process keeps a read transaction open, so SQLite cannot checkpoint the log, and "
            "reads slow down",
            "end that transaction, or restart the process that has it open",
        )
    ]


def check_clock(context: CheckContext) -> Iterable[Outcome]:
    """Whether the clock of this machine was set back: then stored times are ahead of it."""
    from assistly.storage.engines.sqlite.dialect import DIALECT

    parts = (f"SELECT max({time}) AS at FROM {table} WHERE {time} < :far" for table, time in _CLOCK_TIMES)
    ((at,),) = context.file_connection().rows(
        f"SELECT max(at) FROM ({' UNION ALL '.join(parts)})", {"far": DIALECT.bind_time(context.now + FAR)}
    )
    stored: datetime | None = None if at is None else DIALECT.time(at)
    if stored is None or stored - context.now < AHEAD:
        return [ok("no stored time is ahead of the clock of this machine")]
    return [
        problem(
            f"a stored time is {span(stored - context.now)} ahead of the clock of this machine: the clock "
            "was set back, and jobs will be late by as much",
            "correct the clock (timedatectl), and synchronize it with NTP",
        )
    ]


FIRST = (Check("old-wal", check_old_log, ENGINES),)
CHECKS = (
    Check("long-transactions", check_long_log, ENGINES),
    Check("clock", check_clock, ENGINES),
    Check("sqlite-version", check_sqlite_version, ENGINES),
    Check("sqlite-copies", check_sqlite_copies, ENGINES),
    Check("integrity", check_integrity, ENGINES),
    Check("file-modes", check_file_modes, ENGINES),
    Check("file-system", check_file_system, ENGINES),
    Check("free-disk", check_free_disk, ENGINES),
)
