"""`assistly jobs`: list, show, add, import, and changes of one job or of all that match."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assistly.operations import applying
from assistly.storage import Job, JobStatus, Storage, open_storage

Run = Callable[..., tuple[int, str, str]]

HOUR = timedelta(hours=1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def storage(engine: str) -> Iterator[Storage]:
    with open_storage(auto_prune=False) as storage:
        yield storage


sqlite_only = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


def claimed(storage: Storage, content: str = "held") -> Job:
    storage.queue.schedule("x", content)
    (job,) = storage.queue.claim_due(worker_id="w1")
    return job


def statuses(storage: Storage) -> list[str]:
    return [str(job.status) for job in storage.queue.list()]


def document(run: Run, *arguments: str) -> Any:
    _, out, _ = run(*arguments, "--json")
    return json.loads(out)


def trail(storage: Storage, verb: str) -> list[Any]:
    return [event.payload for event in storage.events.list(event_type=f"operator.jobs.{verb}")]


def test_list_by_every_filter(storage: Storage, run: Run) -> None:
    soon = datetime.now(UTC) + HOUR / 2
    a = storage.queue.schedule("x", "Hello there", soon, idempotency_key="k")
    b = storage.queue.schedule("y", "good bye", soon - HOUR)
    c = storage.queue.cancel(storage.queue.schedule("x", "hello again").id)

    def ids(*options: str) -> list[int]:
        return [job["id"] for job in document(run, "jobs", "list", *options)["jobs"]]

    assert ids() == [a.id, b.id, c.id]
    assert ids("--status", "cancelled") == [c.id]
    assert ids("--status", "cancelled", "--status", "scheduled") == [a.id, b.id, c.id]
    assert ids("--platform", "y") == [b.id]
    assert ids("--due-within", "1h") == [b.id, a.id]
    assert ids("--due-within", "1m") == [b.id]
    assert ids("--match", "HELLO") == [a.id, c.id]
    assert ids("--key", "k") == [a.id]
    assert ids("--key", "k", "--platform", "y") == []
    assert ids("--since", "1h") == ids("--since", "-1h") == [a.id, b.id, c.id]
    assert ids("--due-within", "+1h") == [b.id, a.id]
    assert ids("--since", (datetime.now(UTC) + HOUR).isoformat()) == []


@sqlite_only
@pytest.mark.parametrize("options", [[], ["--due-within", "2h"]])
def test_list_goes_on_behind_the_last_job(storage: Storage, run: Run, options: list[str]) -> None:
    for minutes in (30, 20, 10):
        storage.queue.schedule("x", "a", datetime.now(UTC) + timedelta(minutes=minutes))
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = document(run, "jobs", "list", "--limit", "2", "--after", str(after), *options)
        seen += [job["id"] for job in page["jobs"]]
        after = page["next"]
    assert seen == ([3, 2, 1] if options else [1, 2, 3])


@sqlite_only
def test_nothing_is_cut_when_piped(storage: Storage, run: Run) -> None:
    storage.queue.schedule("x", "long " * 100 + "end")
    assert "end" in run("jobs", "list")[1]
    assert max(len(line) for line in run("jobs", "list")[1].splitlines()) > 500


@sqlite_only
def test_what_a_worker_holds_is_said_to_be_left_out(storage: Storage, run: Run) -> None:
    claimed(storage, "summer sale")
    for command in (["cancel"], ["move", "--shift", "+2h"], ["remove"]):
        code, out, err = run("jobs", *command, "--match", "sale")
        assert (code, out.startswith("0 jobs")) == (0, True)
        hint = "" if command[0] == "move" else " (see --status processing)"
        assert err.endswith(f"1 skipped: a worker holds it{hint}")
    assert "skipped" not in run("jobs", "cancel", "--match", "sale", "--status", "processing", "--dry-run")[2]
    assert "skipped" not in run("jobs", "replay", "--match", "sale")[2]


@sqlite_only
def test_a_dry_run_tells_what_the_command_then_does(storage: Storage, run: Run) -> None:
    publishing = storage.queue.begin_publish(claimed(storage))
    held = claimed(storage)
    posted = storage.queue.mark_posted(claimed(storage))
    for options in (["--dry-run"], ["--yes"]):
        code, out, err = run("jobs", "cancel", "--status", "processing", *options)
        assert (code, out.splitlines()[0].startswith("1 job ")) == (0, True)
        assert err.endswith("1 skipped: publishing has begun")
    assert statuses(storage) == ["processing", "cancelled", "posted"]
    ids = [str(id) for id in (publishing.id, held.id, posted.id, 99)]
    for options in (["--dry-run"], []):
        code, out, _ = run("jobs", "remove", *ids, *options)
        assert (code, out.splitlines()[0].startswith("2 jobs ")) == (1, True)
        refused = [line for line in out.splitlines() if " not changed: " in line]
        assert [line.split()[1] for line in refused] == [ids[0], ids[3]]
    assert document(run, "jobs", "remove", *ids, "--dry-run")["jobs"] == []


@sqlite_only
def test_a_posted_job_is_listed_without_the_unknown_outcome_that_it_had(storage: Storage, run: Run) -> None:
    job = storage.queue.mark_unknown(storage.queue.begin_publish(claimed(storage)), "no answer")
    assert "outcome unknown: no answer" in run("jobs", "list")[1]
    storage.queue.resolve(job.id, posted=True)
    out = run("jobs", "list")[1]
    assert ("posted" in out, "unknown" in out, "error" in out) == (True, False, False)


@sqlite_only
def test_attempts_are_counted_from_when_the_job_was_scheduled_again(storage: Storage, run: Run) -> None:
    job = storage.queue.mark_unknown(storage.queue.begin_publish(claimed(storage)), "no answer")
    assert "1 of 3 failed\n" in run("jobs", "show", str(job.id))[1]
    storage.queue.resolve(job.id, posted=False)
    out = run("jobs", "show", str(job.id))[1]
    assert "0 of 3 failed since it was replayed\n" in out
    assert "attempts that failed, or whose outcome was unknown\n" in out


@sqlite_only
def test_show_tells_the_story(storage: Storage, run: Run) -> None:
    job = claimed(storage)
    storage.queue.checkpoint(storage.queue.begin_publish(job), {"uploaded": 2})
    storage.queue.mark_failed(job, "the platform is busy", retry_at=datetime.now(UTC) + HOUR)
    run("jobs", "move", str(job.id), "+3h", "--by", "ann", "--note", "not at night")
    code, out, _ = run("jobs", "show", str(job.id), "--utc")
    assert code == 0
    (event,) = trail(storage, "move")
    times = [f"{datetime.fromisoformat(event[name]):%Y-%m-%d %H:%M:%SZ}" for name in ("from", "to")]
    assert f"move: {times[0]} -> {times[1]}" in out
    for words in ("the platform is busy", "w1", '{"uploaded": 2}', "1 of 3 failed", "ann", "not at night"):
        assert words in out
    assert "It is not due yet" in out
    found = document(run, "jobs", "show", str(job.id))
    assert [event["payload"]["by"] for event in found["events"]] == ["ann"]
    assert run("jobs", "show", "99")[0] == 1


def test_add(storage: Storage, run: Run) -> None:
    options = ["--at", "2h", "--key", "k", "--metadata", '{"a": 1}', "--max-retries", "5"]
    code, out, _ = run("jobs", "add", "x", "hello", *options, "--max-lateness", "1h", "--by", "ann")
    (job,) = storage.queue.list()
    assert (code, out.startswith(f"job {job.id} is scheduled for ")) == (0, True)
    assert (job.metadata, job.max_retries, job.max_lateness) == ({"a": 1}, 5, HOUR)
    assert abs(job.scheduled_at - datetime.now(UTC) - 2 * HOUR) < timedelta(minutes=5)
    assert trail(storage, "add") == [{"by": "ann", "job": job.id, "platform": "x"}]
    assert "already has this key" in run("jobs", "add", "x", "hello", *options)[1]
    assert run("jobs", "add", "x", "other", "--key", "k")[0] == 1
    assert run("jobs", "add", "x", "near", "--at", "+2h", "--min-gap", "1h")[0] == 1
    assert len(storage.queue.list()) == len(trail(storage, "add")) == 1


def test_move(storage: Storage, run: Run) -> None:
    job = storage.queue.schedule("x", "a", datetime.now(UTC) + HOUR)
    code, out, err = run("jobs", "move", str(job.id), "--shift", "-30m", "--utc")
    shown = [f"{time:%Y-%m-%d %H:%M:%SZ}" for time in (job.due_at, job.due_at - HOUR / 2)]
    assert (code, out) == (0, f"job {job.id}: {shown[0]} -> {shown[1]} (30 min earlier)\n")
    assert "in the past" not in err
    (moved,) = storage.queue.list()
    assert moved.due_at == job.due_at - HOUR / 2
    assert run("jobs", "move", str(job.id), "2099-01-01T09:00+01:00")[0] == 0
    (moved,) = storage.queue.list()
    assert moved.due_at == datetime(2099, 1, 1, 8, tzinfo=UTC)
    assert trail(storage, "move")[0]["to"] == "2099-01-01T08:00:00+00:00"
    assert run("jobs", "move", str(job.id), "--shift", "+9999999d")[0] == 1
    code, out, _ = run("jobs", "move", "--all", "--shift", "10m", "--dry-run", "--utc")
    assert out.splitlines()[1] == (
        f"job {job.id} scheduled x, 2099-01-01 08:00:00Z -> 2099-01-01 08:10:00Z (10 min later): a"
    )
    past = "2020-01-01T09:00Z"
    for options in ([str(job.id), past, "--dry-run"], [str(job.id), past], ["--all", "--to", past, "--yes"]):
        err = run("jobs", "move", *options)[2]
        assert err.endswith("the new time of 1 job is in the past: due at once")


def test_a_refused_change_leaves_no_event(storage: Storage, run: Run) -> None:
    job = storage.queue.begin_publish(claimed(storage))
    for arguments in (
        ["cancel"],
        ["remove"],
        ["replay"],
        ["resolve", "--posted"],
        ["move", "--shift", "+1h"],
    ):
        code, out, err = run("jobs", arguments[0], str(job.id), *arguments[1:])
        assert (code, out, err.count("\n")) == (1, "", 1)
    assert storage.queue.list() == [job]
    assert storage.events.list() == []


def test_all_that_match_are_changed_page_by_page(
    storage: Storage, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assistly.views import job_filter

    monkeypatch.setattr(job_filter, "_PAGE", 2)
    due = datetime.now(UTC) + HOUR
    jobs = [storage.queue.schedule("x", f"sale {n}", due) for n in range(5)]
    other = storage.queue.schedule("x", "news", due)
    run("jobs", "move", "--match", "SALE", "--shift", "+2h", "--yes")
    assert [job.due_at for job in storage.queue.list()] == [due + 2 * HOUR] * 5 + [due]
    done = document(run, "jobs", "cancel", "--match", "sale", "--yes", "--by", "ann")
    assert done["done"] == [job.id for job in jobs]
    assert statuses(storage) == ["cancelled"] * 5 + ["scheduled"]
    assert sorted(payload["job"] for payload in trail(storage, "cancel")) == [job.id for job in jobs]
    assert run("jobs", "replay", "--match", "sale", "--status", "cancelled", "--yes")[0] == 0
    assert document(run, "jobs", "remove", "--match", "sale", "--yes")["matched"] == 5
    assert [job.id for job in storage.queue.list()] == [other.id]
    assert storage.queue.claim_due(worker_id="w") == []


@sqlite_only
def test_bulk_looks_first_and_asks(storage: Storage, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = storage.queue.schedule("x", "a")
    found = document(run, "jobs", "cancel", "--platform", "x", "--dry-run")
    assert (found["dry_run"], found["matched"], found["done"], found["jobs"]) == (True, 1, [], [job.id])
    code, out, err = run("jobs", "cancel", "--platform", "x")
    assert (code, out, "Cancel 1 job?" in err) == (2, "", True)

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    code, out, err = run("jobs", "cancel", "--platform", "x")
    assert (code, out.strip()) == (1, "nothing was done")
    assert "\n1 scheduled on x\nCancel 1 job?" in err
    assert storage.queue.list() == [job]
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    code, out, _ = run("jobs", "cancel", "--platform", "x")
    assert (code, out.strip()) == (0, "1 job cancelled")


@sqlite_only
def test_a_post_that_is_to_come_is_not_removed_unasked(
    storage: Storage, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = datetime.now(UTC) + HOUR
    job = storage.queue.schedule("x", "text " * 300, due, idempotency_key="k")
    other = storage.queue.schedule("y", "b", due)
    code, out, err = run("jobs", "remove", str(job.id))
    assert (code, out, "Remove 1 job whose post is still to come?" in err) == (2, "", True)
    assert run("jobs", "remove", str(job.id), str(other.id), "--dry-run")[0] == 0
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    code, _, err = run("jobs", "remove", str(job.id), str(other.id))
    assert (code, "\n1 scheduled on x, 1 scheduled on y\nRemove 2 jobs" in err) == (1, True)
    assert storage.queue.list() == [job, other]
    assert run("jobs", "remove", str(job.id), "--yes")[0] == 0
    (event,) = trail(storage, "remove")
    assert (event["due"], event["content"], event["key"]) == (due.isoformat(), ("text " * 300)[:1000], "k")


@sqlite_only
def test_what_is_being_published_is_said_not_to_be_removed(storage: Storage, run: Run) -> None:
    job = storage.queue.begin_publish(claimed(storage))
    err = run("jobs", "remove", str(job.id))[2]
    assert err.endswith(f"assistly: job {job.id} is not removed: publishing has begun")


@pytest.mark.parametrize(
    "change", [["cancel"], ["remove"], ["move", "--shift", "+1h"]], ids=["cancel", "remove", "move"]
)
def test_a_job_that_a_worker_claims_meanwhile_is_left_alone(
    storage: Storage, run: Run, monkeypatch: pytest.MonkeyPatch, change: list[str]
) -> None:
    first = storage.queue.schedule("x", "a", datetime.now(UTC) - HOUR)
    second = storage.queue.schedule("x", "b")
    apply = applying.apply

    def claim_first(*arguments: Any) -> Job | None:
        if arguments[2].id == first.id:
            storage.queue.claim_due(worker_id="w1", limit=1)
        return apply(*arguments)

    monkeypatch.setattr(applying, "apply", claim_first)
    code, out, _ = run("jobs", *change, "--platform", "x", "--yes")
    assert code == 1
    assert out.splitlines()[0].startswith("1 job ")
    assert f"job {first.id} not changed: job {first.id} was claimed meanwhile" in out
    held = storage.queue.get(first.id)
    assert held is not None
    assert (held.status, held.worker_id) == (JobStatus.PROCESSING, "w1")
    assert [payload["job"] for payload in trail(storage, change[0])] == [second.id]


def test_an_unknown_outcome_is_not_removed_unasked(storage: Storage, run: Run) -> None:
    job = storage.queue.mark_unknown(storage.queue.begin_publish(claimed(storage)), "no answer")
    assert run("jobs", "remove", str(job.id))[0] == 1
    assert "1 skipped: nobody knows" in run("jobs", "remove", "--all", "--yes")[2]
    assert storage.queue.list() == [job]
    assert run("jobs", "resolve", "--all", "--posted", "--yes")[1] == "1 job resolved\n"
    assert statuses(storage) == ["posted"]
    assert run("jobs", "remove", str(job.id))[1] == f"job {job.id} is removed\n"


def test_import(storage: Storage, run: Run) -> None:
    lines = [
        {"platform": "x", "content": "a", "scheduled_at": "2099-01-01T09:00:00+01:00", "max_lateness": 90.5},
        {"platform": "y", "content": "b", "idempotency_key": "k", "metadata": {"n": [1]}, "max_retries": 2},
    ]
    Path("jobs.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    assert document(run, "jobs", "import", "jobs.jsonl", "--dry-run")["jobs"] == 2
    assert storage.queue.list() == []
    assert run("jobs", "import", "jobs.jsonl", "--by", "ann")[:2] == (0, "2 jobs imported\n")
    a, b = storage.queue.list()
    assert (a.scheduled_at, a.max_lateness) == (
        datetime(2099, 1, 1, 8, tzinfo=UTC),
        timedelta(seconds=90.5),
    )
    assert (b.idempotency_key, b.metadata, b.max_retries) == ("k", {"n": [1]}, 2)
    (event,) = trail(storage, "import")
    assert event == {"by": "ann", "jobs": 2, "first": a.id, "last": b.id, "existed": 0}
    code, out, err = run("jobs", "import", "jobs.jsonl", "--dry-run")
    assert (code, out) == (0, "1 job would be imported, 1 already stored under its idempotency key\n")
    assert err.endswith("1 job without an idempotency key: importing the file again duplicates them")


def test_an_import_counts_only_what_it_adds(storage: Storage, run: Run) -> None:
    lines = [{"platform": "x", "content": "a", "idempotency_key": key} for key in ("k", "l", "l")]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first = run("jobs", "import", "jobs.jsonl")[1]
    assert first == "2 jobs imported, 1 already stored under its idempotency key\n"
    again = run("jobs", "import", "jobs.jsonl")[1]
    assert again == "0 jobs imported, 3 already stored under their idempotency keys\n"
    assert len(storage.queue.list()) == 2


@sqlite_only
def test_a_file_of_export_is_named(storage: Storage, run: Run) -> None:
    assert run("export", "storage.gz")[0] == 0
    code, out, err = run("jobs", "import", "storage.gz")
    assert (code, out, "`assistly import`" in err) == (2, "", True)
    Path("jobs.jsonl").write_bytes(b"\xff\n")
    err = run("jobs", "import", "jobs.jsonl")[2]
    assert err.endswith("line 1 is not UTF-8; nothing was imported")
    assert storage.queue.list() == []


@sqlite_only
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 3 is not JSON"),
        ("[1]", "line 3 is not a JSON object"),
        ('{"platform": "x", "content": "a", "id": 3}', "line 3: unknown field 'id'"),
        ('{"platform": "x"}', "line 3: content is missing"),
        ('{"platform": "", "content": "a"}', "line 3: platform"),
        ('{"platform": "x", "content": "a", "max_retries": 0}', "line 3: max_retries"),
        ('{"platform": "x", "content": "a", "scheduled_at": "2026-01-01"}', "line 3: scheduled_at"),
        ('{"platform": "x", "content": "a", "scheduled_at": 3}', "line 3: scheduled_at must be"),
        ('{"platform": "x", "content": "a", "min_gap": "1h"}', "line 3: min_gap must be a number"),
        ('{"platform": "x", "content": "a", "metadata": [1]}', "line 3: metadata"),
        ('{"platform": "x", "content": "other", "idempotency_key": "k"}', "line 3: idempotency key"),
        ('{"platform": "x", "content": "a", "min_gap": 60}', "line 3: job"),
    ],
)
def test_a_mistake_in_a_file_names_the_line_and_nothing_is_stored(
    storage: Storage, run: Run, line: str, words: str
) -> None:
    good = '{"platform": "x", "content": "good", "idempotency_key": "k"}'
    Path("jobs.jsonl").write_text(f"{good}\n\n{line}\n")
    code, out, err = run("jobs", "import", "jobs.jsonl")
    assert (code, out) == (1, "")
    assert f"assistly: {words}" in err
    assert err.endswith("nothing was imported")
    assert (storage.queue.list(), storage.events.list()) == ([], [])


@sqlite_only
@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--status", "lost"],
        ["list", "--since", "yesterday"],
        ["list", "--due-within", "soon"],
        ["cancel"],
        ["cancel", "1", "--match", "a"],
        ["cancel", "--match", "", "--yes"],
        ["list", "--platform", " "],
        ["replay", "--all", "--key", ""],
        ["cancel", "--status", "posted"],
        ["move", "--status", "processing", "--shift", "+1h"],
        ["replay", "--status", "scheduled"],
        ["cancel", "x"],
        ["remove", "1", "--all"],
        ["move", "1"],
        ["move", "1", "+2h", "--shift", "+1h"],
        ["move", "1", "--shift", "soon"],
        ["move", "1", "now"],
        ["move", "1", "9999999d"],
        ["list", "--since", "+2h"],
        ["list", "--since", "9999999d"],
        ["move", "--to", "+2h"],
        ["resolve", "1"],
        ["resolve", "--all", "--posted", "--remote-id", "7"],
        ["import", "missing.jsonl"],
        ["add", "x"],
        ["add", "x", "a", "--metadata", "[1]"],
        ["show", "0"],
    ],
)
def test_wrong_usage_exits_with_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run("jobs", *arguments)
    assert (code, out, "Error" in err) == (2, "", True)


@sqlite_only
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("arguments", [["jobs", "list"], ["jobs", "cancel", "1"], ["why", "1"], ["status"]])
def test_no_database_is_made(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out, "there is no database yet" in err) == (1, "", True)
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("engine")
@sqlite_only
@pytest.mark.parametrize("arguments", [["jobs", "list"], ["why", "1"], ["status"]])
def test_a_server_that_is_down_exits_with_3(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("STORAGE_ENGINE", "postgres")
    monkeypatch.setenv("DATABASE_URL", "postgresql://bot:canary@127.0.0.1:1/bot")
    code, out, err = run(*arguments)
    assert (code, out, "canary" in err) == (3, "", False)
