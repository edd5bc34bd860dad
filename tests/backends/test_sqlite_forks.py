"""What a fork does to SQLite files: real processes, in which no acknowledged write may be lost.

Each program runs in an interpreter of its own, so that what the test process has open plays no part.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import SqliteBackend, Storage
from assistly.storage.engines.sqlite.driver import sqlite3
from assistly.storage.testing.forking import needs_fork
from waiting import until

pytestmark = needs_fork

HEAD = """
import json, os, sqlite3, subprocess, sys, threading, time, warnings
from contextlib import closing, contextmanager
from datetime import timedelta
from multiprocessing import Pipe
warnings.simplefilter("ignore", DeprecationWarning)
from assistly.storage import NewJob, SqliteBackend, Storage, StorageUnavailable, StorageClosed

path, out = sys.argv[1], sys.argv[2]
storage = Storage(SqliteBackend(path), auto_prune=False)

def note(**facts):
    with open(out, "a") as file:
        file.write(json.dumps(facts) + "\\n")

def fork(work):
    # The child has ended when its pipe has: also where it has been adopted by init.
    ours, theirs = Pipe()
    pid = os.fork()
    if pid == 0:
        ours.close()
        code = 1
        try:
            work(theirs)
            code = 0
        except BaseException:
            import traceback
            note(failed=traceback.format_exc())
        finally:
            os._exit(code)
    theirs.close()
    return pid, ours

def ended(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def append(who, count=5):
    ids = [storage.events.append(who, n).id for n in range(count)]
    note(who=who, ids=ids)

def drain(who):
    ids = []
    while jobs := storage.queue.claim_due(worker_id=who, limit=1):
        ids += [job.id for job in jobs]
    note(who=who, claimed=ids)

def open_and_close():
    # In another process, which is not forked from this one.
    program = "import sys; from assistly.storage import *; s = SqliteBackend(sys.argv[1]); s.ping()"
    subprocess.run([sys.executable, "-c", f"{program}; s.close()", path], check=True)

def refused(call, kind=StorageUnavailable):
    for _ in range(2):
        try:
            call()
        except kind as error:
            text = str(error)
        else:
            text = None
            break
    note(refused=text)
"""


def run(path: Path, program: str) -> list[dict[str, Any]]:
    """Run a program, and wait for all the processes that it made; what they noted."""
    out = path.with_suffix(".notes")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", HEAD + program, str(path), str(out)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    notes = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    assert not any("failed" in note for note in notes), notes
    return notes


def assert_nothing_lost(path: Path, notes: list[dict[str, Any]]) -> None:
    acknowledged = sorted(id for note in notes for id in note.get("ids", ()))
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        stored: list[int] = []
        while page := storage.events.read_after(stored[-1] if stored else 0, limit=1000):
            stored += [event.id for event in page]
    assert stored == acknowledged
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "assistly.db"


PARENTS = {
    "closes": "storage.close()",
    "goes on": "append('parent')",
    "exits": "os._exit(0)",
    "ends": "sys.exit(0)",
}


@pytest.mark.parametrize("parent", PARENTS)
def test_whatever_the_parent_does_the_childs_writes_stay(path: Path, parent: str) -> None:
    """The child writes before and after the parent lets go of the file, and after another process does."""
    run(
        path,
        f"""
append("parent")
parent = os.getpid()

def child(pipe):
    append("child")
    pipe.send("written")
    if {parent!r} in ("exits", "ends"):
        while os.getppid() == parent:
            time.sleep(0.001)
    else:
        pipe.recv()
    append("child")
    open_and_close()
    append("child")

pid, pipe = fork(child)
pipe.recv()
{PARENTS[parent]}
pipe.send("done")
ended(pid)
""",
    )
    until_noted(path, child=3)
    assert_nothing_lost(path, read_notes(path))


def read_notes(path: Path) -> list[dict[str, Any]]:
    out = path.with_suffix(".notes")
    return [json.loads(line) for line in out.read_text().splitlines()]


def until_noted(path: Path, **counts: int) -> None:
    """Children may outlive the program."""

    until(lambda: Counter(note.get("who") for note in read_notes(path)) >= Counter(counts))


def test_a_daemon_that_forks_twice(path: Path) -> None:
    run(
        path,
        """
append("parent")

def middle(pipe):
    middle_id = os.getpid()

    def daemon(pipe):
        os.setsid()
        append("daemon")
        while os.getppid() == middle_id:
            time.sleep(0.001)
        drain("daemon")
        open_and_close()
        append("daemon")
        note(who="daemon")
    fork(daemon)

storage.queue.schedule_many(NewJob("x", "a") for _ in range(10))
pid, _ = fork(middle)
ended(pid)
os._exit(0)
""",
    )
    until_noted(path, daemon=4)
    notes = read_notes(path)
    assert [note["claimed"] for note in notes if "claimed" in note] == [[*range(1, 11)]]
    assert_nothing_lost(path, notes)


def test_multiprocessing(path: Path) -> None:
    notes = run(
        path,
        """
import multiprocessing
append("parent")
context = multiprocessing.get_context("fork")
written, closed = context.Barrier(4), context.Barrier(4)

def child(name):
    append(name)
    written.wait(30)
    closed.wait(30)
    append(name)

processes = [context.Process(target=child, args=(f"child {n}",)) for n in range(3)]
for process in processes:
    process.start()
written.wait(30)
append("parent")
storage.close()
closed.wait(30)
for process in processes:
    process.join()
    assert process.exitcode == 0
""",
    )
    assert_nothing_lost(path, notes)


def test_a_preloaded_server(path: Path) -> None:
    """The parent opens and uses the storage, forks two workers, and closes while they work."""
    notes = run(
        path,
        """
append("parent")
storage.queue.schedule_many(NewJob("x", "a") for _ in range(40))

def early(pipe):
    append("early")
    work("early", pipe)

def late(pipe):
    work("late", pipe)

def work(name, pipe):
    pipe.send("ready")
    pipe.recv()
    for job in storage.queue.claim_due(worker_id=name, limit=20):
        storage.queue.mark_posted(job)
        note(claimed=[job.id])
    pipe.send("posted")
    pipe.recv()
    append(name)

workers = [fork(early), fork(late)]
for _, pipe in workers:
    pipe.recv()
storage.close()
for message in ("go", "end"):
    for _, pipe in workers:
        pipe.send(message)
        pipe.recv() if message == "go" else None
for pid, _ in workers:
    ended(pid)
""",
    )
    claimed = [id for note in notes for id in note.get("claimed", ())]
    assert sorted(claimed) == [*range(1, 41)]
    assert_nothing_lost(path, notes)


def test_another_process_opens_and_closes_the_file_meanwhile(path: Path) -> None:
    """The last one to close removes the log: which of them is the last must be known to the system."""
    notes = run(
        path,
        """
append("parent")

def work(pipe):
    append("child")
    pipe.send("written")
    pipe.recv()
    append("child")

pid, pipe = fork(work)
pipe.recv()
open_and_close()
storage.close()
open_and_close()
pipe.send("go")
ended(pid)
""",
    )
    assert_nothing_lost(path, notes)


def test_nested_forks(path: Path) -> None:
    notes = run(
        path,
        """
append("parent")
storage.queue.schedule_many(NewJob("x", "a") for _ in range(30))

def child(pipe):
    append("child")
    pid, inner = fork(grandchild)
    inner.recv()
    drain("child")
    storage.close()
    inner.send("closed")
    ended(pid)

def grandchild(pipe):
    drain("grandchild")
    append("grandchild")
    pipe.send("written")
    pipe.recv()
    append("grandchild")

pid, _ = fork(child)
drain("parent")
append("parent")
ended(pid)
""",
    )
    assert sorted(id for note in notes for id in note.get("claimed", ())) == [*range(1, 31)]
    assert_nothing_lost(path, notes)


def test_threads_that_write_at_the_fork(path: Path) -> None:
    """They wait for the moment of the fork, and go on; the child can write, too."""
    notes = run(
        path,
        """
append("parent")
stop = threading.Event()
written = []

def write(name):
    while not stop.is_set():
        written.append(storage.events.append(name, 1).id)

threads = [threading.Thread(target=write, args=(f"thread {n}",)) for n in range(3)]
for thread in threads:
    thread.start()
for _ in range(5):
    count = len(written)
    pid, _ = fork(lambda pipe: append("child"))
    ended(pid)
    while len(written) < count + 10:
        time.sleep(0.001)
stop.set()
for thread in threads:
    thread.join()
note(who="threads", ids=written)
storage.close()
""",
    )
    assert sum(note["who"] == "child" for note in notes) == 5
    assert_nothing_lost(path, notes)


def test_waiters_at_the_fork(path: Path) -> None:
    """The connection that watches for changes is closed, too."""
    notes = run(
        path,
        """
append("parent")
woken = threading.Event()
waiting = threading.Event()

def wait():
    waiting.set()
    while not storage.queue.wait(5):
        pass
    woken.set()

thread = threading.Thread(target=wait)
thread.start()
waiting.wait()
pid, _ = fork(lambda pipe: (append("child"), storage.queue.schedule("x", "due")))
assert woken.wait(30)
thread.join()
ended(pid)
storage.close()
""",
    )
    assert_nothing_lost(path, notes)


def test_several_storages_of_one_file(path: Path) -> None:
    notes = run(
        path,
        """
other = Storage(SqliteBackend(path), auto_prune=False)
append("parent")
note(who="other", ids=[other.events.append("other", 1).id])
pid, _ = fork(lambda pipe: append("child"))
ended(pid)
other.close()
storage.close()
""",
    )
    assert_nothing_lost(path, notes)


REFUSED_CHILD = """
def child(pipe):
    refused(lambda: storage.events.append("child", 1))
    refused(lambda: storage.queue.claim_due(worker_id="child"))
    refused(lambda: storage.queue.wait(0.01))
    refused(lambda: Storage(SqliteBackend(path)).ping())
    refused(lambda: Storage(SqliteBackend(os.path.relpath(path))).ping())
    pid, _ = fork(lambda pipe: refused(storage.ping))
    ended(pid)
    storage.close()
"""


def assert_refused(notes: list[dict[str, Any]]) -> None:
    said = [note["refused"] for note in notes if "refused" in note]
    assert len(said) == 6
    for text in said:
        assert text is not None
        assert "forked" in text


OPEN_AT_THE_FORK = {
    "a transaction of the forking thread": """
began = time.monotonic()
with storage.transaction() as tx:
    ids = [tx.events.append("tx", 1).id]
    pid, _ = fork(child)
    assert time.monotonic() - began < 0.9
    ended(pid)
    ids.append(tx.events.append("tx", 2).id)
note(who="tx", ids=ids)
""",
    "a transaction of another thread": """
inside, leave = threading.Event(), threading.Event()

def hold():
    with storage.transaction() as tx:
        ids = [tx.events.append("tx", 1).id]
        inside.set()
        leave.wait()
    note(who="tx", ids=ids)

thread = threading.Thread(target=hold)
thread.start()
inside.wait()
pid, _ = fork(child)
ended(pid)
leave.set()
thread.join()
""",
    "a transaction of another storage": """
other = Storage(SqliteBackend(path), auto_prune=False)
with other.transaction() as tx:
    ids = [tx.events.append("tx", 1).id]
    pid, _ = fork(child)
    ended(pid)
note(who="tx", ids=ids)
other.close()
""",
    "a bound connection": """
with closing(sqlite3.connect(path)) as raw:
    bound = storage.bind(raw)
    ids = [bound.events.append("bound", 1).id]
    pid, _ = fork(child)
    ended(pid)
    raw.commit()
note(who="bound", ids=ids)
""",
    "a connection that nobody has heard of": """
with closing(sqlite3.connect(path)) as raw:
    assert raw.execute("SELECT count(*) FROM assistly_events").fetchone() == (5,)
    pid, _ = fork(child)
    ended(pid)
""",
}


@pytest.mark.parametrize("situation", OPEN_AT_THE_FORK)
def test_where_it_cannot_be_safe_the_child_is_refused(path: Path, situation: str) -> None:
    """For good, with every storage of the file, and so are the children of the child."""
    notes = run(
        path,
        f"""
{REFUSED_CHILD}
append("parent")
{OPEN_AT_THE_FORK[situation]}
append("parent")
pid, _ = fork(lambda pipe: append("child"))
ended(pid)
storage.close()
""",
    )
    assert_refused(notes)
    assert_nothing_lost(path, notes)


def test_the_childs_calls_on_the_transaction_change_nothing(path: Path) -> None:
    notes = run(
        path,
        """
append("parent")
with storage.transaction() as tx:
    ids = [tx.events.append("tx", 1).id]
    # The child leaves the block, too, and ends like any program.
    pid = os.fork()
    if pid == 0:
        try:
            refused(lambda: tx.events.append("tx", 2), StorageClosed)
        except BaseException as error:
            note(failed=repr(error))
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    ids.append(tx.events.append("tx", 3).id)
note(who="tx", ids=ids)
append("parent")
storage.close()
""",
    )
    assert [note["refused"] is not None for note in notes if "refused" in note] == [True]
    assert_nothing_lost(path, notes)


def test_a_child_that_ends_like_any_program_leaves_the_parents_log_alone(path: Path) -> None:
    """Collected at the end of the interpreter, the inherited connections would be closed."""
    notes = run(
        path,
        """
import gc
append("parent")
inside, leave = threading.Event(), threading.Event()

def hold():
    with storage.transaction() as tx:
        ids = [tx.events.append("tx", n).id for n in range(200)]
        inside.set()
        leave.wait()
        ids += [tx.events.append("tx", n).id for n in range(200)]
    note(who="tx", ids=ids)

thread = threading.Thread(target=hold)
thread.start()
inside.wait()
pid = os.fork()
if pid == 0:
    thread = None
    refused(storage.ping)
    storage.close()
    storage = None
    gc.collect()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
leave.set()
thread.join()
append("parent")
storage.close()
""",
    )
    assert_nothing_lost(path, notes)


def test_a_process_that_is_started_anew_is_not_refused(path: Path) -> None:
    """What is refused is the process that inherited SQLite's locks, not its descendants."""
    notes = run(
        path,
        """
append("parent")
program = '''
import sys; from assistly.storage import *
with open_storage(sqlite_path=sys.argv[1]) as s: print(s.events.append("new", 1).id)
'''

def child(pipe):
    refused(storage.ping)
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    note(who="new", ids=[int(done.stdout)])

with closing(sqlite3.connect(path)) as raw:
    raw.execute("SELECT * FROM assistly_events").fetchall()
    pid, _ = fork(child)
    ended(pid)
storage.close()
""",
    )
    assert [note["refused"] is not None for note in notes if "refused" in note] == [True]
    assert_nothing_lost(path, notes)


def test_another_file_is_not_concerned(path: Path, tmp_path: Path) -> None:
    notes = run(
        path,
        f"""
append("parent")
other = Storage(SqliteBackend({str(tmp_path / "other.db")!r}), auto_prune=False)
with other.transaction() as tx:
    tx.nonces.register("n")
    pid, _ = fork(lambda pipe: (append("child"), refused(other.ping)))
    ended(pid)
other.close()
storage.close()
""",
    )
    assert [note["refused"] is not None for note in notes if "refused" in note] == [True]
    assert_nothing_lost(path, notes)


def test_without_the_hook_before_forks_the_child_is_refused(path: Path) -> None:
    """As in a server that forks in C, and tells Python afterwards."""
    notes = run(
        path,
        f"""
{REFUSED_CHILD}
from assistly.storage import forks
append("parent")
SqliteBackend.before_fork = SqliteBackend.after_fork_in_parent = forks.ForkAware.before_fork
pid, _ = fork(child)
ended(pid)
append("parent")
storage.close()
""",
    )
    assert_refused(notes)
    assert_nothing_lost(path, notes)


def test_forks_of_several_threads(path: Path) -> None:
    notes = run(
        path,
        """
append("parent")

def forking(n):
    for _ in range(5):
        pid, _ = fork(lambda pipe: append(f"child {n}", 1))
        ended(pid)
        append(f"thread {n}", 1)

threads = [threading.Thread(target=forking, args=(n,)) for n in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
storage.close()
""",
    )
    assert len(notes) == 31
    assert_nothing_lost(path, notes)
