"""`assistly.operations`: every change leaves one event, and both are undone together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from assistly.operations import (
    applying,
    approvals,
    audit,
    job_changes,
    jobs,
    keys,
    locks,
    platforms,
    pruning,
    schedules,
    sessions,
)
from assistly.operations.applying import Result
from assistly.operations.audit import Person
from assistly.operations.job_changes import JobChange
from assistly.storage import (
    Conflict,
    InvalidValue,
    Job,
    LockLost,
    MemoryBackend,
    NotFound,
    Storage,
    StorageUnavailable,
    TransactionAborted,
)
from assistly.storage.testing.faults import Fault, FaultyBackend, fail_with
from assistly.storage.testing.fixtures import START, FakeClock
from assistly.views.approvals import decided_approval
from assistly.views.job_filter import JobFilter

ANN = Person("ann", "the text is wrong")
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

ALL = JobFilter()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def backend() -> FaultyBackend:
    return FaultyBackend(MemoryBackend())


@pytest.fixture
def storage(backend: FaultyBackend, clock: FakeClock) -> Iterator[Storage]:
    with Storage(backend, clock=clock, auto_prune=False) as storage:
        yield storage


def scheduled(storage: Storage, content: str = "a") -> Job:
    return storage.queue.schedule("x", content, START - HOUR)


def claimed(storage: Storage) -> Job:
    scheduled(storage)
    (job,) = storage.queue.claim_due(worker_id="w1", limit=1)
    return job


def dead(storage: Storage) -> Job:
    return storage.queue.mark_failed(claimed(storage), "gone", retryable=False)


def unknown(storage: Storage) -> Job:
    return storage.queue.mark_unknown(storage.queue.begin_publish(claimed(storage)), "no answer")


def weekly(storage: Storage) -> str:
    storage.schedules.put("s", "x", "c" * 1500, every=HOUR, starts_at=START)
    storage.schedules.run(ahead=DAY)
    return "s"


def pending(storage: Storage) -> str:
    return storage.approvals.add("a", {"post": 1}).id


def held(storage: Storage) -> None:
    assert storage.lock.acquire("host-a:1", ttl=HOUR) is not None


def user(storage: Storage) -> str:
    return storage.sessions.put("u", {"n": 1}).user_id


def key(storage: Storage) -> str:
    storage.idempotency.put("k", "result")
    return "k"


def to_change(change: JobChange) -> Callable[[Storage, Job], object]:
    return lambda storage, job: applying.change_job(storage, change, job.id, ANN, seen=job.claim)


@dataclass(frozen=True)
class Case:
    """An operation: what it needs, what it does with that, and the event that it leaves."""

    action: str
    prepare: Callable[[Storage], Any]
    act: Callable[[Storage, Any], object]
    details: dict[str, Any]


CASES = [
    Case("jobs.cancel", scheduled, to_change(job_changes.cancel()), {"job": 1}),
    Case(
        "jobs.move",
        scheduled,
        to_change(job_changes.move(lambda job: job_changes.moved_by(job.due_at, HOUR))),
        {"job": 1, "from": (START - HOUR).isoformat(), "to": START.isoformat()},
    ),
    Case(
        "jobs.remove",
        scheduled,
        to_change(job_changes.remove()),
        {
            "job": 1,
            "status": "scheduled",
            "platform": "x",
            "key": None,
            "due": (START - HOUR).isoformat(),
            "content": "a",
        },
    ),
    Case(
        "jobs.replay",
        dead,
        to_change(job_changes.replay()),
        {"job": 1, "reason": "gone", "outcome_unknown": False},
    ),
    Case(
        "jobs.resolve",
        unknown,
        to_change(job_changes.resolve(posted=True, remote_id="r7")),
        {"job": 1, "posted": True, "remote_id": "r7"},
    ),
    Case(
        "jobs.add",
        lambda storage: None,
        lambda storage, _: jobs.add(storage, "x", "a", ANN, key="k"),
        {"job": 1, "platform": "x"},
    ),
    Case(
        "approvals.approve",
        pending,
        lambda storage, name: approvals.decide(storage, name, "approved", ANN),
        {"approval_id": "a"},
    ),
    Case(
        "approvals.reject",
        pending,
        lambda storage, name: approvals.decide(storage, name, "rejected", ANN),
        {"approval_id": "a"},
    ),
    Case(
        "platforms.pause",
        lambda storage: None,
        lambda storage, _: platforms.pause(storage, "x", ANN, until=START + HOUR),
        {"platform": "x", "until": "2026-01-15T13:00:00Z"},
    ),
    Case(
        "platforms.resume",
        lambda storage: storage.platforms.pause("x"),
        lambda storage, _: platforms.resume(storage, "x", ANN),
        {"platform": "x"},
    ),
    Case(
        "platforms.limit",
        lambda storage: None,
        lambda storage, _: platforms.limit(storage, "x", ANN, count=3, per=HOUR),
        {"platform": "x", "count": 3, "per": 3600.0},
    ),
    Case(
        "schedules.put",
        weekly,
        lambda storage, name: schedules.put(storage, name, "y", "new", ANN, every=2 * HOUR, enabled=True),
        {"schedule": "s", "platform": "y", "times": "every 2 h", "content": "new", "enabled": True},
    ),
    Case(
        "schedules.remove",
        weekly,
        lambda storage, name: schedules.remove(storage, name, ANN),
        {
            "schedule": "s",
            "platform": "x",
            "times": "every 1 h",
            "content": "c" * 1000,
            "removed_jobs": 25,
        },
    ),
    Case(
        "schedules.enable",
        lambda storage: storage.schedules.disable(weekly(storage)).id,
        lambda storage, name: schedules.enable(storage, name, ANN),
        {"schedule": "s"},
    ),
    Case(
        "schedules.disable",
        weekly,
        lambda storage, name: schedules.disable(storage, name, ANN),
        {"schedule": "s", "removed_jobs": 25},
    ),
    Case(
        "sessions.delete", user, lambda storage, name: sessions.delete(storage, name, ANN), {"user_id": "u"}
    ),
    Case(
        "locks.release",
        held,
        lambda storage, _: locks.release(storage, locks.held(storage, "worker"), ANN),
        {"name": "worker", "owner_id": "host-a:1", "fence": 1},
    ),
    Case(
        "keys.forget",
        key,
        lambda storage, name: keys.forget(storage, name, ANN),
        {"key": "k", "state": "completed"},
    ),
]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.action)


def state(storage: Storage) -> list[object]:
    """All that the operations change."""
    return [
        storage.queue.list(limit=1000),
        storage.approvals.list(),
        storage.platforms.list(),
        storage.schedules.list(),
        storage.sessions.list(),
        storage.lock.list(),
        storage.idempotency.get("k"),
        storage.events.list(),
    ]


@each_case
def test_an_operation_leaves_one_event(storage: Storage, case: Case) -> None:
    prepared = case.prepare(storage)
    before = state(storage)
    case.act(storage, prepared)
    (event,) = storage.events.list()
    assert event.event_type == f"{audit.PREFIX}{case.action}"
    assert event.payload == {"by": "ann", "note": "the text is wrong", **case.details}
    assert state(storage)[:-1] != before[:-1]


@each_case
def test_a_fault_undoes_the_change_and_its_event(clock: FakeClock, case: Case) -> None:
    """Whichever call of the engine it hits, up to the commit."""
    hit = []
    for at in count(1):
        backend = FaultyBackend(MemoryBackend())
        with Storage(backend, clock=clock, auto_prune=False) as storage:
            prepared = case.prepare(storage)
            before = state(storage)
            backend.inject(Fault(fail_with(), at=at))
            failed = False
            try:
                case.act(storage, prepared)
            except StorageUnavailable:
                failed = True
            injected = [*backend.injected]
            backend.inject()
            if not injected:
                break
            assert (failed, state(storage)) == (True, before), injected
            hit += injected
    assert {"events.append", "commit"} <= {*hit}


def test_the_login_stands_for_a_person_without_a_name(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "login", lambda: "root")
    paused = platforms.pause(storage, "x", Person(None, None))
    (event,) = storage.events.list()
    assert (paused.by, paused.reason, paused.paused_until) == ("root", None, None)
    assert event.payload == {"by": "root", "platform": "x", "until": None}


def test_a_deadlock_is_tried_again(storage: Storage, backend: FaultyBackend) -> None:
    job = scheduled(storage)
    backend.inject(
        *(Fault(fail_with(TransactionAborted), at=at, method="events.append") for at in range(1, 5))
    )
    changed = applying.change_job(storage, job_changes.cancel(), job.id, ANN)
    assert (changed and str(changed.status), len(storage.events.list())) == ("cancelled", 1)
    job = scheduled(storage)
    backend.inject(Fault(fail_with(TransactionAborted), method="events.append", lasting=True))
    with pytest.raises(TransactionAborted):
        applying.change_job(storage, job_changes.cancel(), job.id, ANN)
    assert backend.injected == ["events.append"] * 5
    assert (storage.queue.get(job.id), len(storage.events.list())) == (job, 1)


def test_a_job_that_is_not_as_the_person_saw_it(storage: Storage) -> None:
    seen = scheduled(storage)
    (held,) = storage.queue.claim_due(worker_id="w1")
    with pytest.raises(Conflict, match="job 1 was claimed meanwhile, and is processing: nothing was changed"):
        applying.change_job(storage, job_changes.cancel(), seen.id, ANN, seen=seen.claim)
    with pytest.raises(NotFound, match="there is no job 7"):
        applying.change_job(storage, job_changes.cancel(), 7, ANN)
    assert (storage.queue.get(seen.id), storage.events.list()) == (held, [])
    applying.change_job(storage, job_changes.cancel(), seen.id, ANN, seen=held.claim)
    assert [str(job.status) for job in storage.queue.list()] == ["cancelled"]


def test_a_plan_says_what_is_left_out_and_holds_no_contents(storage: Storage) -> None:
    scheduled(storage, "held")
    storage.queue.claim_due(worker_id="w1")
    waiting = [scheduled(storage, "text") for _ in range(3)]
    plan = applying.plan(storage, job_changes.cancel(), ALL)
    assert [job.id for job in plan.jobs] == [job.id for job in waiting]
    assert {job.content for job in plan.jobs} == {""}
    assert plan.left_out == {"a worker holds it": 1}
    assert (plan.complete, storage.events.list()) == (True, [])

    plan = applying.plan(storage, job_changes.remove(), JobFilter(statuses=("processing",)))
    assert ([job.id for job in plan.jobs], plan.left_out) == ([1], {})


@pytest.mark.parametrize(("most", "found", "complete"), [(0, 0, False), (2, 2, False), (3, 3, True)])
def test_a_plan_stops_after_so_many_jobs(storage: Storage, most: int, found: int, complete: bool) -> None:
    for _ in range(3):
        scheduled(storage)
    plan = applying.plan(storage, job_changes.cancel(), ALL, most=most)
    assert ([job.id for job in plan.jobs], plan.complete) == ([1, 2, 3][:found], complete)


def test_a_plan_counts_no_more_jobs_of_workers_than_it_may_hold(storage: Storage) -> None:
    for _ in range(5):
        scheduled(storage)
    storage.queue.claim_due(worker_id="w1")
    (counted,) = applying.plan(storage, job_changes.remove(), ALL, most=2).left_out.values()
    assert counted == 2


def planned(storage: Storage, change: JobChange) -> list[tuple[int, Job | None]]:
    return [(job.id, job) for job in applying.plan(storage, change, ALL).jobs]


def test_changing_many_stops_when_it_is_told_to(storage: Storage) -> None:
    for _ in range(4):
        scheduled(storage)
    asked = count(1)
    change = job_changes.cancel()
    result = applying.apply_all(
        storage, change, planned(storage, change), ALL, ANN, until=lambda: next(asked) == 3
    )
    assert result == Result(matched=4, done=[1, 2], not_done={}, stopped=True)
    assert [event.payload["job"] for event in storage.events.list()] == [2, 1]
    result = applying.apply_all(storage, change, planned(storage, change), ALL, ANN, until=lambda: False)
    assert result == Result(matched=2, done=[3, 4], not_done={}, stopped=False)


def test_changing_many_leaves_alone_what_changed_meanwhile(storage: Storage) -> None:
    for _ in range(3):
        scheduled(storage)
    change = job_changes.remove()
    found = planned(storage, change)
    storage.queue.claim_due(worker_id="w1", limit=1)
    storage.queue.remove(2)
    result = applying.apply_all(storage, change, [*found, (9, None)], ALL, ANN)
    assert (result.matched, result.done, [*result.not_done]) == (4, [3], [1, 2, 9])
    assert result.not_done[9] == "there is no job 9"


def test_a_job_of_another_status_by_now_is_not_meant(storage: Storage) -> None:
    """Without statuses in the filter those count that the change is for, as in the plan."""
    job = dead(storage)
    change = job_changes.replay()
    found = planned(storage, change)
    storage.queue.replay(job.id)
    storage.queue.cancel(job.id)
    result = applying.apply_all(storage, change, found, ALL, ANN)
    assert result.not_done == {job.id: f"job {job.id} has changed meanwhile, and no longer matches"}
    assert [str(each.status) for each in storage.queue.list()] == ["cancelled"]


def test_what_was_done_before_an_error_is_known(storage: Storage, backend: FaultyBackend) -> None:
    for _ in range(3):
        scheduled(storage)
    change = job_changes.cancel()
    found = planned(storage, change)
    backend.inject(Fault(fail_with(), at=2, method="events.append", lasting=True))
    result = Result()
    with pytest.raises(StorageUnavailable):
        applying.apply_all(storage, change, found, ALL, ANN, result=result)
    assert (result.matched, result.done) == (3, [1])


def test_a_job_that_exists_under_its_key_is_not_added_again(storage: Storage) -> None:
    job, existed = jobs.add(storage, "x", "a", ANN, key="k", at=START + HOUR)
    assert (job.scheduled_at, existed) == (START + HOUR, False)
    assert jobs.add(storage, "x", "a", ANN, key="k") == (job, True)
    assert len(storage.events.list()) == 1


def test_an_approval_is_approved_or_rejected(storage: Storage) -> None:
    id = pending(storage)
    with pytest.raises(InvalidValue, match="status must be approved or rejected, not 'perhaps'"):
        approvals.decide(storage, id, "perhaps", ANN)
    assert decided_approval(storage, id) is not None
    approvals.decide(storage, id, "rejected", ANN)
    found = decided_approval(storage, id)
    assert found is not None
    assert (str(found.approval.status), found.by, found.note) == ("rejected", "ann", ANN.note)
    assert decided_approval(storage, "b") is None


def test_a_pause_that_is_over_already_is_refused(storage: Storage) -> None:
    with pytest.raises(InvalidValue, match=r"^12:00 is in the past: nothing was changed; `assistly plat"):
        platforms.pause(storage, "x", ANN, until=START, shown=lambda time: f"{time:%H:%M}")
    with pytest.raises(NotFound, match="platform 'x' is not paused"):
        platforms.resume(storage, "x", ANN)
    assert (storage.platforms.list(), storage.events.list()) == ([], [])


def test_a_lock_is_freed_only_from_the_owner_that_was_seen(storage: Storage) -> None:
    with pytest.raises(NotFound, match="nobody holds the lock 'worker'"):
        locks.held(storage, "worker")
    held(storage)
    with pytest.raises(LockLost, match=r"has fence 1, not 2\. It is held by 'host-a:1'"):
        locks.held(storage, "worker", fence=2)
    lock = locks.held(storage, "worker", fence=1)
    assert storage.lock.release(lock)
    storage.lock.acquire("host-b:2", ttl=HOUR)
    with pytest.raises(LockLost, match="'host-a:1' no longer holds the lock 'worker'"):
        locks.release(storage, lock, ANN)
    assert ([each.owner_id for each in storage.lock.list()], storage.events.list()) == (["host-b:2"], [])


def test_pruning_leaves_an_event_if_somebody_is_named(storage: Storage, clock: FakeClock) -> None:
    storage.nonces.register("n", START)
    clock.advance(30 * DAY)
    assert pruning.prune(storage, Person(None, None), force=True).nonces == 1
    assert storage.events.list() == []
    assert pruning.prune(storage, Person("ann", None), force=True).ran
    assert not pruning.prune(storage, Person("ann", None)).ran
    (event,) = storage.events.list()
    assert (event.event_type, event.payload["deleted"]["nonces"]) == ("operator.prune", 0)
