"""Single calls of several threads that travel in one statement."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from assistly.storage import OutcomeUnknown, Storage, StorageBackend, StorageUnavailable
from assistly.storage.stores import grouping
from assistly.storage.batching import ALONE, Failed, Lane, Shared, board
from forking import needs_fork
from waiting import until

NOW = datetime(2026, 1, 15, tzinfo=UTC)
ON_DISK = ["sqlite", "postgres"]


class Engine:
    def __init__(self, writers: int) -> None:
        self._writers = writers

    def writers(self) -> int:
        return self._writers


class Harbour:
    """An operation that returns ten times its request; `held` requests wait until they are let go."""

    def __init__(self, writers: int = 1) -> None:
        self.backend = self.ready = Engine(writers)
        self.alone: list[int] = []
        self.trips: list[list[int]] = []
        self.held: dict[int, threading.Event] = {}
        self.failure: BaseException | None = None
        self.clock_failure: Exception | None = None
        self.shared: Shared[int, int] = Shared(self, Harbour.call, Harbour.call_all)  # type: ignore[arg-type]

    @property
    def waiting(self) -> int:
        return len(self.shared._lane._waiting) if self.shared._lane else 0

    def now(self, given: None) -> datetime:
        if self.clock_failure is not None:
            raise self.clock_failure
        return NOW

    def call(self, request: int) -> int:
        self.alone.append(request)
        if request in self.held:
            assert self.held[request].wait(30)
        if request < 0:
            raise ValueError(request)
        return request * 10

    def call_all(self, requests: Sequence[int], now: datetime) -> list[Any]:
        assert now == NOW
        self.trips.append([*requests])
        if self.failure is not None:
            raise self.failure
        return [self._answer(request) for request in requests]

    def _answer(self, request: int) -> Any:
        if request < 0:
            return Failed(ValueError(request))
        return ALONE if request >= 100 else request * 10

    @contextmanager
    def busy(self, request: int = 0) -> Iterator[None]:
        """While this one is under way."""
        self.held[request] = threading.Event()
        first = start(lambda: self.shared.call(request))
        until(lambda: request in self.alone)
        yield
        self.held[request].set()
        assert first.result(30) == request * 10

    def gather(self, requests: Sequence[int]) -> list[Future[int]]:
        calls = []
        for request in requests:
            waiting = self.waiting
            calls.append(start(lambda request=request: self.shared.call(request)))  # type: ignore[misc]
            until(lambda waiting=waiting: self.waiting > waiting)  # type: ignore[misc]
        return calls


def start(call: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - looked at in the test
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return lambda seconds: monkeypatch.setattr(grouping, "PATIENCE", seconds)


@pytest.fixture(autouse=True)
def unhurried(patience: Callable[[float], None]) -> None:
    patience(30)


def test_who_is_alone_goes_at_once() -> None:
    harbour = Harbour()
    assert [harbour.shared.call(request) for request in (1, 2, 3)] == [10, 20, 30]
    assert harbour.alone == [1, 2, 3]
    assert harbour.trips == []


def test_who_comes_meanwhile_goes_next_and_together() -> None:
    harbour = Harbour()
    with harbour.busy():
        calls = harbour.gather([1, 2, 3])
    assert [call.result(30) for call in calls] == [10, 20, 30]
    assert (harbour.alone, harbour.trips) == ([0], [[1, 2, 3]])
    assert harbour.shared.call(4) == 40
    assert harbour.alone == [0, 4]


def test_as_many_go_at_once_as_can_write() -> None:
    harbour = Harbour(writers=2)
    with harbour.busy(0), harbour.busy(1):
        calls = harbour.gather([2, 3])
        assert harbour.trips == []
    assert [call.result(30) for call in calls] == [20, 30]
    assert harbour.trips == [[2, 3]]


def test_without_writers_nobody_waits() -> None:
    harbour = Harbour(writers=0)
    with harbour.busy():
        assert harbour.shared.call(1) == 10
    assert harbour.trips == []


def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "_MOST", 3)
    harbour = Harbour()
    with harbour.busy():
        calls = harbour.gather(range(1, 9))
    assert [call.result(30) for call in calls] == [request * 10 for request in range(1, 9)]
    assert harbour.trips == [[1, 2, 3], [4, 5, 6], [7, 8]]


def test_what_comes_aboard() -> None:
    waiting = deque([3 * 2**20, 2**20, 1, 9 * 2**20, 2])
    assert board(waiting, lambda length: length) == [3 * 2**20, 2**20]
    assert board(waiting, lambda length: length) == [1]
    assert board(waiting, lambda length: length) == [9 * 2**20]
    assert board(deque(range(1001)), lambda _: 0) == [*range(1000)]


def test_an_error_is_its_callers_alone() -> None:
    harbour = Harbour()
    with harbour.busy():
        calls = harbour.gather([1, -2, 3, 100])
    assert isinstance(calls[1].exception(30), ValueError)
    assert [calls[place].result(30) for place in (0, 2, 3)] == [10, 30, 1000]
    assert harbour.alone == [0, 100]


def test_a_failed_batch_is_made_one_by_one() -> None:
    harbour = Harbour()
    harbour.failure = StorageUnavailable("one of them is not possible")
    with harbour.busy():
        calls = harbour.gather([1, -2, 3])
    assert isinstance(calls[1].exception(30), ValueError)
    assert [calls[place].result(30) for place in (0, 2)] == [10, 30]
    assert sorted(harbour.alone) == [-2, 0, 1, 3]


def test_a_clock_that_fails_is_met_alone() -> None:
    harbour = Harbour()
    harbour.clock_failure = ValueError("no time")
    with harbour.busy():
        calls = harbour.gather([1, 2])
    assert [call.result(30) for call in calls] == [10, 20]
    assert harbour.trips == []


def test_what_may_have_landed_is_not_repeated() -> None:
    harbour = Harbour()
    harbour.failure = OutcomeUnknown("the connection broke")
    with harbour.busy():
        calls = harbour.gather([1, 2])
    errors = [call.exception(30) for call in calls]
    assert [str(error) for error in errors] == ["the connection broke"] * 2
    assert errors[0] is not errors[1]
    assert {error.__cause__ for error in errors if error} == {harbour.failure}
    assert harbour.alone == [0]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, TypeError])
def test_a_leader_that_fails_leaves_the_others_in_doubt(failure: type[BaseException]) -> None:
    harbour = Harbour()
    harbour.failure = failure("stop")
    with harbour.busy():
        calls = harbour.gather([1, 2, 3])
    kinds = [type(call.exception(30)) for call in calls]
    assert kinds == [failure, OutcomeUnknown, OutcomeUnknown]
    assert harbour.alone == [0]
    assert harbour.shared.call(4) == 40


def test_who_comes_just_as_the_one_under_way_is_back_does_not_wait() -> None:
    harbour = Harbour()

    class Late(deque[Any]):
        def append(self, passenger: Any) -> None:
            harbour.held[0].set()
            until(lambda: not lane._flights)
            super().append(passenger)

    with harbour.busy():
        assert harbour.shared._lane
        lane = harbour.shared._lane
        lane._waiting = Late()
        assert start(lambda: harbour.shared.call(1)).result(10) == 10


def test_a_leader_who_goes_along_with_another_gives_his_place_up(monkeypatch: pytest.MonkeyPatch) -> None:
    harbour = Harbour(writers=2)
    both_lead = threading.Event()
    depart = Lane._depart

    def later(lane: Any, me: Any) -> None:
        assert both_lead.wait(30)
        depart(lane, me)

    monkeypatch.setattr(Lane, "_depart", later)
    with harbour.busy(0), harbour.busy(1):
        calls = harbour.gather([2, 3])
    both_lead.set()
    assert [call.result(30) for call in calls] == [20, 30]
    assert harbour.trips == [[2, 3]]
    assert harbour.shared._lane
    assert harbour.shared._lane._flights == []


def test_a_long_one_holds_up_nobody_else(patience: Callable[[float], None]) -> None:
    harbour = Harbour()
    patience(0.001)
    with harbour.busy():
        assert [harbour.shared.call(request) for request in (1, 2)] == [10, 20]


def test_an_interrupted_leader_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    harbour = Harbour()
    depart = Lane._depart

    def interrupted(lane: Any, me: Any) -> None:
        if me.request == 1:
            raise KeyboardInterrupt
        depart(lane, me)

    monkeypatch.setattr(Lane, "_depart", interrupted)
    with harbour.busy():
        calls = harbour.gather([1, 2, 3])
    assert isinstance(calls[0].exception(30), KeyboardInterrupt)
    assert [call.result(30) for call in calls[1:]] == [20, 30]
    assert harbour.trips == [[2, 3]]


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_anew() -> None:
    harbour = Harbour()
    with harbour.busy():
        calls = harbour.gather([1])
        assert harbour.shared._lane
        with harbour.shared._lane._mutex:
            child = os.fork()
        if child == 0:
            os._exit(7 if harbour.shared.call(2) == 20 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert calls[0].result(30) == 10


# On engines


@pytest.fixture
def storage(make_backend: Callable[[int], StorageBackend]) -> Storage:
    return Storage(make_backend(1), auto_prune=False)


class Undo(Exception):
    """Raised on purpose."""


@pytest.mark.parametrize("engine", ON_DISK, indirect=True)
def test_a_transaction_travels_alone(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.nonces.register("before")
    monkeypatch.setattr(Lane, "call", lambda *_: pytest.fail("it must not wait for others"))
    with suppress(Undo), storage.transaction() as tx:
        assert tx.nonces.register("yielded")
        assert storage.nonces.register("joined")
        assert storage.idempotency.put("joined", 1)
        with tx.transaction() as nested:
            assert nested.nonces.register("nested")
            assert storage.nonces.register("joined, too")
        raise Undo
    monkeypatch.undo()
    nonces = ["yielded", "joined", "nested", "joined, too"]
    assert storage.nonces.register_many(nonces) == [True] * 4


@pytest.fixture
def blocked(engine: str, storage: Storage) -> Callable[[], Any]:
    """A block in which all single calls of other threads but the first wait."""

    @contextmanager
    def block() -> Iterator[None]:
        with storage.transaction() as tx:
            tx.nonces.register("blocked")
            yield

    return block


def lined_up(shared: Shared[Any, Any], calls: Sequence[Callable[[], Any]]) -> list[Future[Any]]:
    """Each waits behind the one before; the first is the one that is under way."""
    futures = [start(calls[0])]
    until(lambda: shared._lane and shared._lane._flights)
    for number, call in enumerate(calls[1:], 1):
        futures.append(start(call))
        until(lambda number=number: shared._lane and len(shared._lane._waiting) == number)  # type: ignore[misc]
    return futures


@pytest.mark.parametrize("engine", ON_DISK, indirect=True)
def test_equal_keys_are_answered_as_one_after_another(storage: Storage, blocked: Callable[[], Any]) -> None:
    storage.ping()
    shared = storage.idempotency._claiming
    with blocked():
        pairs = [*zip("xabab", "xabab", strict=True), ("b", "other")]
        futures = lined_up(
            shared, [partial(storage.idempotency.claim, key, fingerprint=f) for key, f in pairs]
        )
    claims = [future.result(30) for future in futures[:-1]]
    assert [claim.state for claim in claims] == ["acquired"] * 3 + ["in_progress"] * 2
    assert "was used for another command" in str(futures[-1].exception(30))
    for claim in claims[:3]:
        storage.idempotency.complete(claim, claim.key)


@pytest.mark.parametrize("engine", ON_DISK, indirect=True)
def test_jobs_with_one_key_are_one_job(storage: Storage, blocked: Callable[[], Any]) -> None:
    def call(content: str, key: str | None = None) -> Callable[[], Any]:
        return lambda: storage.queue.schedule("x", content, idempotency_key=key)

    with blocked():
        calls = [call("first"), call("a", "k"), call("b"), call("a", "k"), call("other", "k"), call("c")]
        futures = lined_up(storage.queue._scheduler.scheduling, calls)
    assert "another content" in str(futures[4].exception(30))
    ids = [futures[place].result(30).id for place in (0, 1, 2, 5)]
    assert ids == sorted(set(ids))
    assert futures[3].result(30).id == ids[1]
    assert len(storage.queue.list()) == 4


@pytest.mark.parametrize("engine", ON_DISK, indirect=True)
def test_every_kind_of_call_travels(storage: Storage, blocked: Callable[[], Any]) -> None:
    def check(shared: Shared[Any, Any], call: Callable[[int], Any]) -> list[Any]:
        trips = []
        together = shared._together

        def spied(context: Any, requests: Any, at: Any) -> Any:
            trips.append(len(requests))
            return together(context, requests, at)

        shared._together = spied
        with blocked():
            futures = lined_up(shared, [partial(call, n) for n in range(4)])
        results = [future.result(30) for future in futures]
        assert trips == [3]
        return results

    assert check(storage.nonces._registering, lambda n: storage.nonces.register(str(n % 3))) == [
        True,
        True,
        True,
        False,
    ]
    claims = check(storage.idempotency._claiming, lambda n: storage.idempotency.claim(f"c{n}"))
    assert [(claim.key, claim.state) for claim in claims] == [(f"c{n}", "acquired") for n in range(4)]
    put = check(storage.idempotency._putting, lambda n: storage.idempotency.put("p", [n]))
    assert [record.value for record in put] == [[0], [1], [2], [3]]
    assert storage.idempotency.get("p") == put[3]
    events = check(storage.events._appending, lambda n: storage.events.append("e", n))
    assert storage.events.read_after(0) == events
    assert [event.payload for event in events] == [0, 1, 2, 3]
    before = storage.metrics.read().latency
    check(storage.metrics._incrementing, lambda n: storage.metrics.increment(str(n % 2), n))
    check(storage.metrics._observing, storage.metrics.observe_latency)
    after = storage.metrics.read()
    assert after.counters == {"0": 2, "1": 4}
    assert (after.latency.count - before.count, after.latency.total_ms) == (4, before.total_ms + 6)
    jobs = check(storage.queue._scheduler.scheduling, lambda n: storage.queue.schedule("x", str(n)))
    assert storage.queue.list() == jobs
    assert [job.content for job in jobs] == ["0", "1", "2", "3"]
