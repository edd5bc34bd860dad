"""The clock of the machine, if it is set while a process runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assistly.storage import ClaimState, JobStatus, LockLost, MemoryBackend, SqliteBackend, Storage
from assistly.storage.clock import MachineClock, machine_clock

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


class Machine:
    """A clock that shows the time of day, and one that only counts."""

    def __init__(self) -> None:
        self.wall = START
        self.ticks = 1000.0

    def passes(self, time: timedelta) -> None:
        self.wall += time
        self.ticks += time.total_seconds()

    def is_set(self, by: timedelta) -> None:
        self.wall += by


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def clock(machine: Machine) -> MachineClock:
    return MachineClock(lambda: machine.wall, lambda: machine.ticks)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "assistly.storage"]


def test_leases_go_on_when_the_clock_is_set_back(
    machine: Machine, clock: MachineClock, caplog: pytest.LogCaptureFixture
) -> None:
    machine.passes(MINUTE)
    assert clock.lease_time(clock.now()) == clock.now() == START + MINUTE
    machine.is_set(-HOUR)
    for minutes in range(1, 62):
        machine.passes(MINUTE)
        assert clock.now() == machine.wall == START + MINUTE - HOUR + minutes * MINUTE
        assert clock.lease_time(clock.now()) == START + MINUTE + minutes * MINUTE
    assert len(warnings_of(caplog)) == 1
    assert "set back by 3600.0 seconds" in warnings_of(caplog)[0]
    assert caplog.records[0].levelno == logging.WARNING


def test_it_catches_up_when_the_clock_is_set_forward(
    machine: Machine, clock: MachineClock, caplog: pytest.LogCaptureFixture
) -> None:
    machine.is_set(-HOUR)
    assert clock.lease_time(clock.now()) == START
    machine.is_set(2 * HOUR)
    assert clock.lease_time(clock.now()) == clock.now() == START + HOUR
    machine.is_set(-HOUR)
    assert clock.lease_time(clock.now()) == START + HOUR
    assert len(warnings_of(caplog)) == 2


def test_a_second_step_back_adds_up(machine: Machine, clock: MachineClock) -> None:
    for _ in range(2):
        machine.is_set(-HOUR)
        machine.passes(SECOND)
        assert clock.lease_time(clock.now()) - clock.now() in (HOUR, 2 * HOUR)
    assert clock.lease_time(clock.now()) == START + 2 * SECOND


def test_small_corrections_are_followed(
    machine: Machine, clock: MachineClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        machine.passes(SECOND)
        machine.is_set(-SECOND / 2)
        assert clock.lease_time(clock.now()) == clock.now() == machine.wall
    assert warnings_of(caplog) == []


@pytest.fixture(params=["memory", "sqlite"])
def storage(
    request: pytest.FixtureRequest, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Storage]:
    monkeypatch.setattr(machine_clock, "_wall", lambda: machine.wall)
    monkeypatch.setattr(machine_clock, "_ticks", lambda: machine.ticks)
    monkeypatch.setattr(machine_clock, "_anchor", (machine.ticks, machine.wall))
    monkeypatch.setattr(machine_clock, "_is_behind", False)
    backend = MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "a.db")
    with Storage(backend, auto_prune=False) as storage:
        yield storage


@pytest.mark.parametrize("is_inside", [False, True])
class TestStores:
    """A holder died just before the clock was set back."""

    @pytest.fixture
    def api(self, storage: Storage, is_inside: bool) -> Iterator[Storage]:
        if is_inside:
            with storage.transaction() as tx:
                yield tx
        else:
            yield storage

    def test_a_lock(self, api: Storage, machine: Machine) -> None:
        lock = api.lock.acquire("dead", ttl=MINUTE)
        assert lock is not None
        machine.is_set(-HOUR)
        machine.passes(MINUTE - SECOND)
        assert api.lock.current() == lock
        assert api.lock.acquire("other", ttl=MINUTE) is None
        machine.passes(SECOND)
        assert api.lock.current() is None
        with pytest.raises(LockLost):
            api.lock.renew(lock)
        assert not api.lock.release(lock)
        other = api.lock.acquire("other", ttl=MINUTE)
        assert other is not None
        machine.passes(MINUTE - SECOND)
        assert api.lock.renew(other, ttl=MINUTE).fence == other.fence

    def test_a_key(self, api: Storage, machine: Machine) -> None:
        api.idempotency.claim("key", lease=MINUTE)
        machine.is_set(-HOUR)
        machine.passes(MINUTE - SECOND)
        assert api.idempotency.claim("key").state is ClaimState.IN_PROGRESS
        machine.passes(SECOND)
        assert api.idempotency.claim("key", lease=MINUTE).state is ClaimState.ACQUIRED

    @pytest.mark.parametrize("has_begun", [False, True])
    def test_a_claim(self, api: Storage, machine: Machine, has_begun: bool) -> None:
        job = api.queue.schedule("x", "a", START - HOUR)
        api.queue.claim_due(worker_id="dead", lease=MINUTE)
        held = api.queue.claim_due(worker_id="dead", lease=MINUTE)
        assert held == []
        claimed = api.queue.get(job.id)
        assert claimed is not None
        if has_begun:
            api.queue.begin_publish(claimed)
        machine.is_set(-HOUR)
        machine.passes(MINUTE - SECOND)
        api.queue.claim_due(worker_id="other")
        (alive,) = api.queue.list()
        assert alive.status is JobStatus.PROCESSING
        machine.passes(SECOND)
        due = api.queue.schedule("x", "b")
        assert [job.id for job in api.queue.claim_due(worker_id="other")] == [due.id]
        rescued = api.queue.get(job.id)
        assert rescued is not None
        assert rescued.status is (JobStatus.DEAD_LETTER if has_begun else JobStatus.RETRYING)
        if not has_begun:
            assert rescued.next_retry_at == machine.wall + 5 * MINUTE

    def test_an_extended_claim(self, api: Storage, machine: Machine) -> None:
        api.queue.schedule("x", "a", START - HOUR)
        held = api.queue.claim_due(worker_id="alive", lease=MINUTE)
        machine.is_set(-HOUR)
        for _ in range(5):
            machine.passes(MINUTE - SECOND)
            held = api.queue.extend(held, lease=MINUTE)
            assert len(held) == 1
        api.queue.begin_publish(held[0])
        machine.passes(MINUTE)
        assert api.queue.extend(held, lease=MINUTE) == []
        assert len(api.queue.rescue_expired()) == 1

    def test_jobs_fall_due_at_their_time_of_day(self, api: Storage, machine: Machine) -> None:
        machine.is_set(-HOUR)
        job = api.queue.schedule("x", "a", machine.wall + 30 * MINUTE, max_lateness=MINUTE)
        assert api.queue.claim_due(worker_id="w") == []
        machine.passes(30 * MINUTE - SECOND)
        assert api.queue.claim_due(worker_id="w") == []
        machine.passes(SECOND)
        assert [claimed.id for claimed in api.queue.claim_due(worker_id="w")] == [job.id]


def test_a_storage_with_a_clock_of_its_own_goes_by_that(storage: Storage, machine: Machine) -> None:
    own = Storage(storage._backend, clock=lambda: machine.wall, auto_prune=False)
    assert own.lock.acquire("dead", ttl=MINUTE) is not None
    machine.is_set(-HOUR)
    machine.passes(2 * MINUTE)
    assert own.lock.acquire("other", ttl=MINUTE) is None
