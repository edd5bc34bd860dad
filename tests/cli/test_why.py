"""`assistly why`: a reason for each state a job can be in, with a clock that stands still."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from assistly.operations import audit
from assistly.operations.audit import Person
from assistly.storage import Job, MemoryBackend, Storage, open_storage
from assistly.storage.testing.fixtures import START, FakeClock
from assistly.views import jobs as view
from assistly.views.jobs import ReasonCode
from assistly.views.text import span

Run = Callable[..., tuple[int, str, str]]

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def storage(clock: FakeClock) -> Iterator[Storage]:
    with Storage(MemoryBackend(), clock=clock, auto_prune=False) as storage:
        yield storage


def reasons(storage: Storage, job: Job | int, clock: FakeClock) -> dict[ReasonCode, str]:
    id = job if isinstance(job, int) else job.id
    found = view.story(storage, id, now=clock())
    return {reason.code: reason.text(lambda time: f"{time:%H:%M}") for reason in found.reasons}


def claimed(storage: Storage) -> Job:
    (job,) = storage.queue.claim_due(worker_id="w1", lease=MINUTE)
    return job


def test_not_due(storage: Storage, clock: FakeClock) -> None:
    job = storage.queue.schedule("x", "a", START + 2 * HOUR + 5 * MINUTE)
    due = f"{job.due_at:%H:%M}"
    assert reasons(storage, job, clock) == {
        ReasonCode.NOT_DUE: f"It is not due yet: it is due at {due}, in 2 h 5 min."
    }


def test_due_and_nothing_holds_it_back(storage: Storage, clock: FakeClock) -> None:
    job = storage.queue.schedule("x", "a")
    assert [*reasons(storage, job, clock)] == [ReasonCode.DUE, ReasonCode.NOTHING]


def test_a_pause(storage: Storage, clock: FakeClock) -> None:
    job = storage.queue.schedule("x", "a")
    storage.platforms.pause("x", until=START + HOUR, reason="it is down {really}", by="ann")
    due, text = reasons(storage, job, clock).values()
    assert due == f"It has been due for 0 s, since {START:%H:%M}."
    assert f"paused by ann until {START + HOUR:%H:%M}: it is down {{really}}. `assistly platforms" in text
    storage.platforms.pause("x")
    _, text = reasons(storage, job, clock).values()
    assert "paused until somebody resumes it." in text


def test_a_pause_counts_for_the_time_when_the_job_is_due(storage: Storage, clock: FakeClock) -> None:
    job = storage.queue.schedule("x", "a", START + HOUR)
    storage.platforms.pause("x", until=START + 2 * HOUR)
    assert [*reasons(storage, job, clock)] == [ReasonCode.NOT_DUE, ReasonCode.PAUSED]
    storage.platforms.pause("x", until=START + HOUR / 2)
    assert [*reasons(storage, job, clock)] == [ReasonCode.NOT_DUE]


def test_the_budget_is_used_up(storage: Storage, clock: FakeClock) -> None:
    job = storage.queue.schedule("x", "a")
    storage.platforms.limit("x", 3, HOUR)
    assert ReasonCode.BUDGET not in reasons(storage, job, clock)
    storage.platforms.take("x", 3)
    text = reasons(storage, job, clock)[ReasonCode.BUDGET]
    assert (
        "all workers together may publish 3 in 1 h, and the next job may start in 20 min. `assistly" in text
    )
    assert "`assistly platforms limit x COUNT --per DURATION`" in text
    clock.advance(19 * MINUTE + timedelta(seconds=55.5))
    assert "may start in 5 s." in reasons(storage, job, clock)[ReasonCode.BUDGET]
    assert storage.platforms.available("x") == 0


@pytest.mark.parametrize(
    ("length", "rounded", "exact"),
    [
        (timedelta(0), "0 s", "0 s"),
        (timedelta(seconds=10), "10 s", "10 s"),
        (timedelta(minutes=90), "1 h 30 min", "1 h 30 min"),
        (timedelta(days=1, seconds=3725.25), "1 d 1 h", "1 d 1 h 2 min 5.25 s"),
        (timedelta(microseconds=600_001), "1 s", "0.600001 s"),
        (None, "no limit", "no limit"),
    ],
)
def test_lengths_of_time(length: timedelta | None, rounded: str, exact: str) -> None:
    assert (span(length), span(length, exact=True)) == (rounded, exact)


def test_waiting_behind_others(storage: Storage, clock: FakeClock) -> None:
    for platform in ("x", "y", "y", "paused"):
        storage.queue.schedule(platform, "before", START - MINUTE)
    storage.platforms.pause("paused")
    job = storage.queue.schedule("x", "a")
    storage.queue.schedule("x", "after", START + MINUTE)
    clock.advance(12 * MINUTE)
    found = reasons(storage, job, clock)
    assert [*found] == [ReasonCode.DUE, ReasonCode.NO_WORKER, ReasonCode.BEHIND]
    assert found[ReasonCode.DUE] == f"It has been due for 12 min, since {START:%H:%M}."
    assert found[ReasonCode.BEHIND] == (
        "Due jobs that workers claim before it: 3; of these on x: 1. "
        "If the number does not fall, start another worker (`assistly worker`)."
    )
    behind = view.story(storage, job.id, now=clock()).reasons[-1]
    assert behind.details == {"ahead": 3, "of_platform": 1, "platform": "x"}


def test_waiting_behind_more_than_are_counted(
    storage: Storage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "_PAGE", 2)
    monkeypatch.setattr(view, "COUNT_LIMIT", 4)
    for platform in ("x", "paused", "x", "x"):
        storage.queue.schedule(platform, "before", START - MINUTE)
    storage.platforms.pause("paused")
    job = storage.queue.schedule("x", "a")
    assert "before it: 3+; of these on x: 3+. If" in reasons(storage, job, clock)[ReasonCode.BEHIND]


def test_no_worker_is_seen_until_one_works(storage: Storage, clock: FakeClock) -> None:
    first = storage.queue.schedule("x", "a", START - HOUR)
    job = storage.queue.schedule("x", "b", START - MINUTE)
    assert "No worker was seen on x" in reasons(storage, job, clock)[ReasonCode.NO_WORKER]
    (held,) = storage.queue.claim_due(worker_id="w", limit=1)
    assert held.id == first.id
    assert ReasonCode.NO_WORKER not in reasons(storage, job, clock)
    storage.queue.mark_posted(held)
    clock.advance(9 * MINUTE)
    assert ReasonCode.NO_WORKER not in reasons(storage, job, clock)
    clock.advance(MINUTE)
    assert ReasonCode.NO_WORKER in reasons(storage, job, clock)


def test_what_people_do_is_no_sign_of_a_worker(storage: Storage, clock: FakeClock) -> None:
    due = storage.queue.schedule("x", "a")
    for _ in range(5):
        storage.queue.schedule("x", "b", START - HOUR)
    moved, released, answered, failed, again = storage.queue.claim_due(worker_id="w", lease=HOUR, limit=5)
    storage.queue.mark_failed(moved, "it is busy", retry_at=START + HOUR)
    storage.queue.release(released)
    storage.queue.mark_unknown(storage.queue.begin_publish(answered), "no answer")
    storage.queue.mark_failed(failed, "refused", retryable=False)
    storage.queue.mark_failed(again, "refused", retryable=False)
    clock.advance(9 * MINUTE)
    assert ReasonCode.NO_WORKER not in reasons(storage, due, clock)
    clock.advance(HOUR)
    for job in (moved, released):
        storage.queue.reschedule(job.id, START + 9 * HOUR)
    storage.queue.resolve(answered.id, posted=True)
    storage.queue.replay(again.id, scheduled_at=START + 9 * HOUR)
    assert ReasonCode.NO_WORKER in reasons(storage, due, clock)
    clock.advance(8 * HOUR)
    (held,) = storage.queue.claim_due(worker_id="w", lease=MINUTE, limit=1)
    storage.queue.snooze(held, clock() + HOUR)
    assert ReasonCode.NO_WORKER not in reasons(storage, due, clock)


def test_retrying(storage: Storage, clock: FakeClock) -> None:
    storage.queue.schedule("x", "a")
    job = storage.queue.mark_failed(claimed(storage), "it is busy", retry_at=START + HOUR)
    found = reasons(storage, job, clock)
    assert [*found] == [ReasonCode.RETRYING, ReasonCode.NOT_DUE]
    assert found[ReasonCode.RETRYING] == f"Attempt 1 of 3 failed at {START:%H:%M}: it is busy."


def test_too_late_for_the_next_claim(storage: Storage, clock: FakeClock) -> None:
    job = storage.queue.schedule("x", "a", max_lateness=MINUTE)
    clock.advance(MINUTE)
    assert ReasonCode.LATE not in reasons(storage, job, clock)
    clock.advance(MINUTE)
    assert "more than 1 min late" in reasons(storage, job, clock)[ReasonCode.LATE]
    storage.queue.claim_due(worker_id="w")
    assert "maximum lateness of 1 min after" in reasons(storage, job, clock)[ReasonCode.MISSED]


def test_claimed_then_the_lease_runs_out(storage: Storage, clock: FakeClock) -> None:
    storage.queue.schedule("x", "a")
    job = claimed(storage)
    until = f"{START + MINUTE:%H:%M}"
    text = reasons(storage, job, clock)[ReasonCode.CLAIMED]
    assert "Worker w1 has claimed it (attempt 1 of 3)" in text
    assert f"lease runs until {until}" in text
    clock.advance(MINUTE)
    text = reasons(storage, job, clock)[ReasonCode.LEASE_OVER]
    assert f"did not begin to publish; its lease expired at {until}" in text


def test_publishing_then_nobody_knows(storage: Storage, clock: FakeClock) -> None:
    storage.queue.schedule("x", "a")
    job = storage.queue.begin_publish(claimed(storage))
    assert [*reasons(storage, job, clock)] == [ReasonCode.PUBLISHING]
    clock.advance(MINUTE)
    assert "nobody knows whether" in reasons(storage, job, clock)[ReasonCode.LEASE_OVER]
    storage.queue.rescue_expired()
    text = reasons(storage, job, clock)[ReasonCode.UNKNOWN]
    assert f"`assistly jobs resolve {job.id} --posted`" in text
    assert f"`assistly jobs resolve {job.id} --not-posted`" in text


def test_dead_after_errors_or_one_that_is_final(storage: Storage, clock: FakeClock) -> None:
    storage.queue.schedule("x", "a", max_retries=1)
    job = storage.queue.mark_failed(claimed(storage), "refused")
    assert "after 1 of 1 attempts: refused" in reasons(storage, job, clock)[ReasonCode.DEAD]
    storage.queue.schedule("x", "b")
    job = storage.queue.mark_failed(claimed(storage), "no such account", retryable=False)
    text = reasons(storage, job, clock)[ReasonCode.DEAD]
    assert "after 1 of 3 attempts, because retrying does not help" in text


def test_posted(storage: Storage, clock: FakeClock) -> None:
    storage.queue.schedule("x", "a")
    job = storage.queue.mark_posted(claimed(storage), "17")
    (text,) = reasons(storage, job, clock).values()
    assert text == f"It was posted on x at {START:%H:%M}; its id there is 17."


def test_posted_as_a_person_answered(storage: Storage, clock: FakeClock) -> None:
    storage.queue.schedule("x", "a")
    job = storage.queue.mark_unknown(storage.queue.begin_publish(claimed(storage)), "no answer")
    clock.advance(3 * MINUTE)
    with storage.transaction() as tx:
        tx.queue.resolve(job.id, posted=True)
        audit.record(tx, "jobs.resolve", Person("root", "looked there"), job=job.id, posted=True)
    (text,) = reasons(storage, job, clock).values()
    assert text == (
        f"root answered at {START + 3 * MINUTE:%H:%M} (looked there) that it was posted on x. "
        f"Publishing began at {START:%H:%M}; its id there is not known."
    )


def test_cancelled_by_a_program_or_by_a_person(storage: Storage, clock: FakeClock) -> None:
    job = storage.queue.cancel(storage.queue.schedule("x", "a").id)
    assert "A program cancelled it" in reasons(storage, job, clock)[ReasonCode.CANCELLED]
    other = storage.queue.schedule("x", "b")
    with storage.transaction() as tx:
        tx.queue.cancel(other.id)
        audit.record(tx, "jobs.cancel", Person("ann", "wrong text"), job=other.id)
    assert "ann cancelled it at" in reasons(storage, other, clock)[ReasonCode.CANCELLED]
    assert "(wrong text)" in reasons(storage, other, clock)[ReasonCode.CANCELLED]
    text = reasons(storage, job, clock)[ReasonCode.CANCELLED]
    assert "ann" not in text
    assert f"due now, since its time, {START:%H:%M}, has passed; --at sets" in text
    later = storage.queue.cancel(storage.queue.schedule("x", "c", START + HOUR).id)
    text = reasons(storage, later, clock)[ReasonCode.CANCELLED]
    assert text.endswith(
        f"`assistly jobs replay {later.id}` schedules it again for its time, {START + HOUR:%H:%M}."
    )


def test_no_such_job_and_one_that_was_removed(storage: Storage, clock: FakeClock) -> None:
    assert "It was never stored" in reasons(storage, 7, clock)[ReasonCode.ABSENT]
    audit.record(storage, "jobs.remove", Person("ann", None), job=7)
    assert "ann removed it at" in reasons(storage, 7, clock)[ReasonCode.ABSENT]


def test_the_command(run: Run, engine: str) -> None:
    assert run("why", "1")[0] == 1
    run("migrate")
    with open_storage(auto_prune=False) as storage:
        job = storage.queue.schedule("x", "a", START + timedelta(days=36_500))
    code, out, _ = run("why", str(job.id), "--utc")
    assert code == 0
    assert out.splitlines()[0] == f"Job {job.id} on x is scheduled."
    assert "It is not due yet" in out
    with open_storage(auto_prune=False) as storage:
        dead = storage.queue.schedule("x", "late", START, max_lateness=MINUTE)
        storage.queue.claim_due(worker_id="w")
    assert run("why", str(dead.id))[1].splitlines()[0] == f"Job {dead.id} on x is a dead letter."
    code, out, _ = run("why", str(job.id), "--json")
    assert json.loads(out)["reasons"][0]["code"] == "not_due"
    code, out, _ = run("why", "999", "--json")
    assert (code, json.loads(out)["reasons"][0]["code"]) == (1, "no_such_job")
