"""Helpers of all contract classes: a fake clock, fixtures, jobs in each state, and emptying an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Barrier, Thread
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings

from ..clock import Clock
from ..engine.protocol import StorageBackend
from ..engine.values import PAUSES, PrunedByAge, PrunedByCap
from ..records import Job
from ..storage import Storage
from ..stores.platforms import LIMITS
from ..stores.schedules import NEXT_SLOTS, REMOVED, SCHEDULES
from .engine_spec import EngineSpec

T = TypeVar("T")

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
FAR_FUTURE = datetime(9000, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime.max.replace(tzinfo=UTC)
START_OF_TIME = datetime.min.replace(tzinfo=UTC)
TICK = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

LEASE = 5 * MINUTE
RETRY_DELAY = 5 * MINUTE

UNHEARD_OF = (0, -1, 2**31, 2**63 - 1, 2**63, 10**30)
"""Ids that no job has."""

_BATCH = 1000
_names = count(1)


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, time: datetime = START) -> None:
        self.time = time

    def __call__(self) -> datetime:
        return self.time

    def advance(self, step: timedelta) -> datetime:
        self.time += step
        return self.time

    def reset(self) -> None:
        self.time = START


class Contract:
    """The base of the contract classes. They need one fixture, `backend`, in the class or outside of it.

    An engine whose data can be opened by several processes, or outlives its backend, also needs
    `engine_spec` and `new_engine_spec`. `impatient_backend`, an empty engine whose calls wait for locks for a
    fraction of a second, makes the suite faster. No class of the suite defines these four.

    `backend` may have any scope: each test, and each Hypothesis example, empties it first.
    """

    def __init_subclass__(cls) -> None:
        """Refuse two bases with tests of the same name, of which only one would run."""
        super().__init_subclass__()
        owners: dict[str, type] = {}
        for owner in cls.__mro__:
            for name in vars(owner):
                first = owners.setdefault(name, owner)
                if name.startswith("test_") and not issubclass(first, owner):
                    raise TypeError(f"{first.__name__}.{name} hides the one of {owner.__name__}: rename it")

    @pytest.fixture
    def maybe_spec(self, request: pytest.FixtureRequest) -> EngineSpec | None:
        """The fixture `engine_spec`, wherever it is defined; None if it is not."""
        spec: EngineSpec | None = _fixture_or_none(request, "engine_spec")
        return spec

    @pytest.fixture
    def maybe_new_spec(self, request: pytest.FixtureRequest) -> Callable[[], EngineSpec] | None:
        """The fixture `new_engine_spec`, wherever it is defined; None if it is not."""
        make: Callable[[], EngineSpec] | None = _fixture_or_none(request, "new_engine_spec")
        return make

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def storage(self, backend: StorageBackend, clock: FakeClock) -> Storage:
        empty(backend)
        return open_for_test(backend, clock)

    @pytest.fixture
    def impatient_storage(self, request: pytest.FixtureRequest, storage: Storage) -> Storage:
        """On the fixture `impatient_backend`, wherever it is defined; without it, the fixture `storage`."""
        backend: StorageBackend | None = _fixture_or_none(request, "impatient_backend")
        return storage if backend is None else open_for_test(backend, None)


def _fixture_or_none(request: pytest.FixtureRequest, name: str) -> Any:
    try:
        return request.getfixturevalue(name)
    except pytest.FixtureLookupError as error:
        if error.argname != name:
            raise
        return None


def needs_processes(backend: StorageBackend, spec: T | None) -> T:
    """The fixture `engine_spec` or `new_engine_spec`. Skips the test where processes do not share data."""
    if not backend.multi_process:
        pytest.skip("the engine says that processes do not share its data (multi_process)")
    return _given(spec, "multi_process")


def needs_durability(backend: StorageBackend, spec: T | None) -> T:
    """The same. Skips the test where the data does not outlive the process."""
    if not backend.durable:
        pytest.skip("the engine says that its data ends with the process (durable)")
    return _given(spec, "durable")


def _given(spec: T | None, trait: str) -> T:
    if spec is None:
        pytest.fail(
            f"an engine with {trait} needs the fixtures `engine_spec` and `new_engine_spec`: define them",
            pytrace=False,
        )
    return spec


def open_for_test(backend: StorageBackend, clock: Clock | None, **settings: Any) -> Storage:
    """A storage without automatic pruning."""
    return Storage(backend, clock=clock, auto_prune=False, **settings)


def examples(count: int, *, steps: int = 30) -> settings:
    """Settings of Hypothesis for one property; HYPOTHESIS_PROFILE: see `assistly.storage.testing`."""
    profile = os.environ.get("HYPOTHESIS_PROFILE", "")
    shrinking = () if profile == "first" else (Phase.target, Phase.shrink)
    return settings(
        max_examples=count * (20 if profile == "thorough" else 1),
        stateful_step_count=steps,
        derandomize=profile == "ci",
        phases=[Phase.explicit, Phase.reuse, Phase.generate, *shrinking],
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )


def fresh_name(prefix: str = "name") -> str:
    """A name that no test used before, for the kinds of record that cannot be deleted."""
    return f"{prefix}-{next(_names)}-{uuid4().hex[:12]}"


def empty(backend: StorageBackend) -> None:
    """Delete all data that the protocol can delete, and the time of the last prune."""
    with backend.transaction() as tx:
        while jobs := tx.jobs.list(status=None, platform=None, after=0, limit=_BATCH):
            for job in jobs:
                tx.jobs.remove(job.id)
        while sessions := tx.sessions.list(after=None, limit=_BATCH):
            for session in sessions:
                tx.sessions.delete(session.user_id)
        for collection in (PAUSES, LIMITS, SCHEDULES, NEXT_SLOTS, REMOVED):
            while documents := tx.documents.list(collection, after=None, limit=_BATCH):
                for document in documents:
                    tx.documents.delete(collection, document.key)
        _empty_the_aged(tx)
        if lock := tx.lock.current("worker", now=START_OF_TIME):
            tx.lock.release(lock.name, lock.owner_id, lock.fence, now=START_OF_TIME)
    backend.retention.begin_prune(now=FAR_FUTURE, interval=SECOND)
    backend.retention.reset_prune(now=FAR_FUTURE)


def _empty_the_aged(backend: StorageBackend) -> None:
    capped: tuple[PrunedByCap, ...] = ("approvals", "idempotency")
    for kind in capped:
        while backend.retention.delete_up_to(kind, (END_OF_TIME, 2**62), limit=_BATCH):
            pass
    aged: tuple[PrunedByAge, ...] = ("events", "nonces")
    for age in aged:
        while backend.retention.delete_older(age, END_OF_TIME, limit=_BATCH):
            pass


def claim_one(storage: Storage, *, worker_id: str = "worker-1", lease: timedelta = LEASE) -> Job:
    """Claim the only job that is due."""
    jobs = storage.queue.claim_due(worker_id=worker_id, lease=lease)
    assert len(jobs) == 1, f"one job should be due, not {len(jobs)}"
    return jobs[0]


def held(storage: Storage, *, worker_id: str = "worker-1", lease: timedelta = LEASE, **fields: Any) -> Job:
    """A job that has just been scheduled and claimed; no other may be due."""
    scheduled = storage.queue.schedule(**{"platform": "x", "content": "hello", **fields})
    job = claim_one(storage, worker_id=worker_id, lease=lease)
    assert job.id == scheduled.id
    return job


def begun(storage: Storage, **fields: Any) -> Job:
    """A held job whose publishing has just begun."""
    return storage.queue.begin_publish(held(storage, **fields))


def dead(storage: Storage, *, error: str = "refused", **fields: Any) -> Job:
    """A job that has just become a dead letter."""
    return storage.queue.mark_failed(held(storage, **fields), error, retryable=False)


def posted(storage: Storage, **fields: Any) -> Job:
    return storage.queue.mark_posted(held(storage, **fields), "remote-1")


def retrying(storage: Storage, *, retry_at: datetime | None = None, **fields: Any) -> Job:
    return storage.queue.mark_failed(held(storage, **fields), "busy", retry_at=retry_at)


def unknown(storage: Storage, *, error: str = "no answer", **fields: Any) -> Job:
    """A job whose publishing has just begun, and whose outcome is unknown."""
    return storage.queue.mark_unknown(begun(storage, **fields), error)


def missed(storage: Storage, **fields: Any) -> Job:
    """A job that a claim met too late; no other may be due."""
    job = storage.queue.schedule(
        **{"platform": "x", "content": "late", "scheduled_at": START - DAY, "max_lateness": HOUR, **fields}
    )
    assert storage.queue.claim_due(worker_id="w") == []
    letter = storage.queue.get(job.id)
    assert letter is not None
    return letter


def cancelled(storage: Storage, **fields: Any) -> Job:
    """A job that was cancelled while it waited."""
    return storage.queue.cancel(storage.queue.schedule(**{"platform": "x", "content": "hello", **fields}).id)


def census(storage: Storage) -> dict[str, Any]:
    """All data that can be listed: two calls show whether a call between them changed anything."""
    return {
        "jobs": list(storage.queue.list(limit=_BATCH)),
        "sessions": list(storage.sessions.list(limit=_BATCH)),
        "approvals": list(storage.approvals.list(limit=_BATCH)),
        "events": list(storage.events.list(limit=_BATCH)),
        "snapshots": list(storage.snapshots.list()),
        "metrics": storage.metrics.read(),
        "lock": storage.lock.current(),
        "platforms": list(storage.platforms.list()),
        "schedules": list(storage.schedules.list(limit=_BATCH)),
    }


class Undo(Exception):
    """Raised on purpose, to end a transaction."""


@contextmanager
def undone(storage: Storage) -> Iterator[Storage]:
    """A transaction that ends in an exception."""
    with suppress(Undo), storage.transaction() as tx:
        yield tx
        raise Undo


def on_a_thread(work: Callable[[], T], *, inherit: bool = False) -> Future[T]:
    """Start the work on a thread of its own, with this thread's context variables or without any."""
    context = copy_context() if inherit else Context()
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def together(count: int, work: Callable[[int], T]) -> list[T]:
    """Run `work(0)` to `work(count - 1)` in as many threads, which start at the same time."""
    barrier = Barrier(count)
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(index: int) -> None:
        barrier.wait(timeout=30)
        try:
            results[index] = work(index)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    threads = [Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a call hangs"
    return [results[index] for index in range(count)]
