"""`assistly replay --all`, `assistly resolve` and `assistly cancel`: short names of commands of `jobs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assistly.storage import Job, JobStatus, Storage, open_storage

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Storage]:
    monkeypatch.setenv("STORAGE_ENGINE", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", str(tmp_path / "cli.db"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with open_storage(auto_prune=False) as storage:
        yield storage


def claimed(storage: Storage, content: str, platform: str = "x") -> Job:
    storage.queue.schedule(platform, content)
    (job,) = storage.queue.claim_due(worker_id="w")
    return job


def unknown_outcome(storage: Storage, platform: str = "x") -> Job:
    job = storage.queue.begin_publish(claimed(storage, "perhaps published", platform))
    return storage.queue.mark_unknown(job, "no answer")


def failed(storage: Storage) -> Job:
    return storage.queue.mark_failed(claimed(storage, "refused"), "refused", retryable=False)


def missed(storage: Storage) -> Job:
    job = storage.queue.schedule("x", "good morning", max_lateness=timedelta(0))
    storage.queue.claim_due(worker_id="w", now=job.scheduled_at + timedelta(seconds=1))
    return stored(storage, job)


def stored(storage: Storage, job: Job) -> Job:
    found = storage.queue.get(job.id)
    assert found is not None
    return found


def test_all_leaves_unknown_and_missed_ones_alone(storage: Storage, run: Run) -> None:
    left = [unknown_outcome(storage), missed(storage), unknown_outcome(storage)]
    dead = failed(storage)
    assert [job.status for job in left] == [JobStatus.DEAD_LETTER] * 3
    code, out, err = run("replay", "--all", "--yes")
    assert (code, out) == (0, "1 job replayed\n")
    _, unknown, late = err.splitlines()
    assert unknown.startswith("2 skipped: nobody knows whether it was published (see `assistly")
    assert late.startswith("1 skipped: it was missed")
    assert stored(storage, dead).status is JobStatus.SCHEDULED
    assert [stored(storage, job) for job in left] == left


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["--unknown"], ["1 job replayed", "1 skipped: it was missed"]),
        (["--missed", "--platform", "x"], ["1 job replayed", "1 skipped: nobody knows"]),
        (["--missed", "--unknown"], ["2 jobs replayed"]),
        (["--unknown", "--missed", "--platform", "other"], ["0 jobs replayed"]),
    ],
)
def test_all_takes_what_is_asked_for_by_name(
    storage: Storage, run: Run, options: list[str], lines: list[str]
) -> None:
    unknown_outcome(storage)
    missed(storage)
    _, out, err = run("replay", "--all", "--yes", *options)
    printed = [*out.splitlines(), *err.splitlines()[1:]]
    assert len(printed) == len(lines)
    assert all(line.startswith(start) for line, start in zip(printed, lines, strict=True))


def test_what_is_left_out_is_of_the_platform_that_was_named(storage: Storage, run: Run) -> None:
    unknown_outcome(storage, "other")
    _, out, err = run("replay", "--all", "--platform", "x")
    assert (out, "skipped" in err) == ("0 jobs replayed\n", False)


def test_a_cancelled_job_is_replayed_by_its_id(storage: Storage, run: Run) -> None:
    job = storage.queue.cancel(storage.queue.schedule("x", "hello").id)
    assert run("replay", "--all")[1] == "0 jobs replayed\n"
    assert run("replay", str(job.id))[0] == 0
    assert stored(storage, job).status is JobStatus.SCHEDULED


def test_a_cancelled_job_whose_time_is_to_come_keeps_its_time(storage: Storage, run: Run) -> None:
    times = [datetime.now(UTC) + hours * timedelta(hours=1) for hours in (-1, 1, 2)]
    over, first, second = (
        storage.queue.cancel(storage.queue.schedule("x", "hello", time).id) for time in times
    )
    _, out, _ = run("replay", str(first.id), "--utc")
    assert out == f"job {first.id} is scheduled for {times[1]:%Y-%m-%d %H:%M:%SZ}\n"
    out = run("jobs", "replay", "--status", "cancelled", "--dry-run", "--utc")[1]
    shown = f"{times[2]:%Y-%m-%d %H:%M:%SZ}"
    assert out.splitlines()[1:] == [
        f"job {over.id} cancelled x: hello",
        f"job {second.id} cancelled x, for {shown}: hello",
    ]
    run("jobs", "replay", "--status", "cancelled", "--yes")
    assert stored(storage, second).due_at == times[2]
    assert times[0] < stored(storage, over).due_at < times[1]
    storage.queue.cancel(first.id)
    run("replay", str(first.id), "--at", times[2].isoformat())
    assert stored(storage, first).due_at == times[2]


def test_an_unknown_outcome_is_replayed_by_its_id_only_if_that_is_asked_for(
    storage: Storage, run: Run
) -> None:
    job = unknown_outcome(storage)
    code, out, err = run("replay", str(job.id))
    assert (code, out) == (1, "")
    assert err.splitlines()[1] == (
        f"assistly: job {job.id} may have been published already: look at x, then `assistly jobs resolve "
        f"{job.id} --posted` or `--not-posted`; --unknown replays it anyway"
    )
    dead = failed(storage)
    code, out, _ = run("replay", str(job.id), str(dead.id))
    assert (code, out.splitlines()[0]) == (1, "1 job replayed")
    assert stored(storage, job) == job
    assert stored(storage, dead).status is JobStatus.SCHEDULED

    assert run("replay", str(job.id), "--unknown")[0] == 0
    assert stored(storage, job).status is JobStatus.SCHEDULED


@pytest.mark.parametrize("options", [[], ["--missed"]])
def test_a_missed_job_is_replayed_by_its_id(storage: Storage, run: Run, options: list[str]) -> None:
    job = missed(storage)
    assert run("replay", str(job.id), *options)[0] == 0
    assert stored(storage, job).status is JobStatus.SCHEDULED


def test_posted(storage: Storage, run: Run) -> None:
    job = unknown_outcome(storage)
    answer = run("resolve", str(job.id), "--posted", "--remote-id", "17")
    assert answer[:2] == (0, f"job {job.id} is posted\n")
    assert "resolve: posted, remote id 17" in run("jobs", "show", str(job.id))[1]
    posted = stored(storage, job)
    assert (posted.status, posted.remote_id) == (JobStatus.POSTED, "17")
    code, out, err = run("resolve", str(job.id), "--posted")
    assert (code, out) == (1, "")
    assert err.splitlines()[1].startswith(f"assistly: job {job.id} is posted")
    assert stored(storage, job) == posted


def test_not_posted(storage: Storage, run: Run) -> None:
    job = unknown_outcome(storage)
    code, out, _ = run("resolve", str(job.id), "--not-posted")
    assert (code, out.startswith(f"job {job.id} is scheduled for ")) == (0, True)
    assert "resolve: not posted" in run("jobs", "show", str(job.id))[1]
    assert stored(storage, job).status is JobStatus.SCHEDULED


def test_a_known_outcome_is_not_resolved(storage: Storage, run: Run) -> None:
    job = failed(storage)
    code, out, err = run("resolve", str(job.id), "--not-posted")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "its outcome is not unknown" in err
    assert stored(storage, job) == job


def test_cancel(storage: Storage, run: Run) -> None:
    job = storage.queue.schedule("x", "hello")
    assert run("cancel", str(job.id))[:2] == (0, f"job {job.id} is cancelled\n")
    assert stored(storage, job).status is JobStatus.CANCELLED
    code, out, err = run("cancel", str(job.id))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "is cancelled" in err


def test_what_is_being_published_is_not_cancelled(storage: Storage, run: Run) -> None:
    job = storage.queue.begin_publish(claimed(storage, "hello"))
    code, _, err = run("cancel", str(job.id))
    assert (code, "publishing has begun" in err) == (1, True)
    assert stored(storage, job) == job


@pytest.mark.parametrize("arguments", [["cancel", "7"], ["resolve", "7", "--posted"], ["replay", "7"]])
@pytest.mark.usefixtures("storage")
def test_no_such_job_is_one_line(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.splitlines()[1:] == ["assistly: there is no job 7"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["resolve", "1"],
        ["resolve", "--posted"],
        ["resolve", "0", "--posted"],
        ["resolve", "1", "--not-posted", "--remote-id", "17"],
        ["resolve", "1", "--posted", "--not-posted"],
        ["cancel"],
        ["cancel", "x"],
    ],
)
def test_usage_errors_exit_with_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Error" in err
