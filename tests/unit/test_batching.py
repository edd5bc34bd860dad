"""Group commit: single calls of several threads that share one statement."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from assistly.storage import (
    OutcomeUnknown,
    Storage,
    StorageBackend,
    StorageUnavailable,
    TransactionOpen,
    batching,
)
from assistly.storage.batching import RETRY_SINGLY, BatchedCall, CallError, ThreadBatcher
from assistly.storage.testing.forking import needs_fork
from waiting import until

NOW = datetime(2026, 1, 15, tzinfo=UTC)
ON_DISK = ["sqlite", "postgres"]


class Operation:
    """Returns ten times its request; `held` requests wait until they are let go."""

    def __init__(self, writers: int = 1, length: Callable[[int], int] = lambda _: 0) -> None:
        self.writers = writers
        self.single: list[int] = []
        self.batches: list[list[int]] = []
        self.held: dict[int, threading.Event] = {}
        self.failure: BaseException | None = None
        self.clock_failure: Exception | None = None
        self.refusal: Exception | None = None
        self.batched: BatchedCall[Operation, int, int] = BatchedCall(
            self, Operation.call, Operation.call_all, length
        )

    @property
    def batcher(self) -> ThreadBatcher[int, int]:
        assert self.batched._batcher is not None
        return self.batched._batcher

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def now(self, given: datetime | None) -> datetime:
        assert given is None
        if self.clock_failure is not None:
            raise self.clock_failure
        return NOW

    def call(self, request: int) -> int:
        self.single.append(request)
        if request in self.held:
            assert self.held[request].wait(30)
        if request < 0:
            raise ValueError(request)
        return request * 10

    def call_all(self, requests: Sequence[int], now: datetime) -> list[Any]:
        assert now == NOW
        self.batches.append([*requests])
        if self.failure is not None:
            raise self.failure
        for request in requests:
            if request in self.held:
                assert self.held[request].wait(30)
        return [self._answer(request) for request in requests]

    def _answer(self, request: int) -> Any:
        if request < 0:
            return CallError(ValueError(request))
        return RETRY_SINGLY if request >= 100 else request * 10

    @contextmanager
    def busy(self, request: int = 0) -> Iterator[None]:
        """While a single call with this request is in flight."""
        self.held[request] = threading.Event()
        first = start(lambda: self.batched.call(request))
        until(lambda: request in self.single)
        yield
        self.held[request].set()
        assert first.result(30) == request * 10

    def gather(self, requests: Sequence[int]) -> list[Future[int]]:
        """Start calls one after the other, each of which has to wait."""
        calls = []
        for request in requests:
            waiting = len(self.batcher.pending)
            calls.append(start(lambda request=request: self.batched.call(request)))  # type: ignore[misc]
            until(lambda waiting=waiting: len(self.batcher.pending) > waiting)  # type: ignore[misc]
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


def test_a_lone_call_runs_at_once() -> None:
    operation = Operation()
    assert [operation.batched.call(request) for request in (1, 2, 3)] == [10, 20, 30]
    assert operation.single == [1, 2, 3]
    assert operation.batches == []


def test_calls_that_come_meanwhile_run_next_and_together() -> None:
    operation = Operation()
    with operation.busy():
        calls = operation.gather([1, 2, 3])
    assert [call.result(30) for call in calls] == [10, 20, 30]
    assert (operation.single, operation.batches) == ([0], [[1, 2, 3]])
    assert operation.batched.call(4) == 40
    assert operation.single == [0, 4]


def test_calls_that_come_while_a_batch_is_in_flight_are_the_next_batch() -> None:
    operation = Operation()
    operation.held[1] = threading.Event()
    with operation.busy():
        calls = operation.gather([1, 2])
    until(lambda: operation.batches)
    calls += operation.gather([3, 4])
    operation.held[1].set()
    assert [call.result(30) for call in calls] == [10, 20, 30, 40]
    assert operation.batches == [[1, 2], [3, 4]]


def test_as_many_batches_are_in_flight_as_the_engine_has_writers() -> None:
    operation = Operation(writers=2)
    with operation.busy(0), operation.busy(1):
        calls = operation.gather([2, 3])
        assert operation.batches == []
    assert [call.result(30) for call in calls] == [20, 30]
    assert operation.batches == [[2, 3]]


def test_a_stuck_batch_holds_one_place_only() -> None:
    operation = Operation(writers=2)
    with operation.busy():
        assert [operation.batched.call(request) for request in (1, 2)] == [10, 20]
        with operation.busy(3):
            calls = operation.gather([4, 5])
        assert [call.result(30) for call in calls] == [40, 50]
    assert operation.batches == [[4, 5]]


def test_without_writers_nothing_is_batched() -> None:
    operation = Operation(writers=0)
    with operation.busy():
        assert operation.batched.call(1) == 10
    assert operation.batches == []
    assert operation.batched._batcher is None


def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_CALLS", 3)
    operation = Operation()
    with operation.busy():
        calls = operation.gather(range(1, 9))
    assert [call.result(30) for call in calls] == [request * 10 for request in range(1, 9)]
    assert operation.batches == [[1, 2, 3], [4, 5, 6], [7, 8]]


def test_a_batch_is_bounded_in_characters() -> None:
    lengths = {1: 3 * 2**20, 2: 2**20, 3: 1, 4: 9 * 2**20, 5: 2, 6: 2}
    operation = Operation(length=lambda request: lengths.get(request, 0))
    with operation.busy():
        calls = operation.gather(range(1, 7))
    assert [call.result(30) for call in calls] == [10, 20, 30, 40, 50, 60]
    assert (operation.batches, operation.single) == ([[1, 2], [5, 6]], [0, 3, 4])
    assert (batching.MAX_CALLS, batching.MAX_CHARACTERS) == (1000, 4 * 2**20)


def test_each_call_has_its_own_answer() -> None:
    operation = Operation()
    with operation.busy():
        calls = operation.gather([1, -2, 3, 100])
    assert isinstance(calls[1].exception(30), ValueError)
    assert [calls[place].result(30) for place in (0, 2, 3)] == [10, 30, 1000]
    assert operation.single == [0, 100]


def test_the_calls_of_a_failed_batch_are_made_singly() -> None:
    operation = Operation()
    operation.failure = StorageUnavailable("one of them is not possible")
    with operation.busy():
        calls = operation.gather([1, -2, 3])
    assert isinstance(calls[1].exception(30), ValueError)
    assert [calls[place].result(30) for place in (0, 2)] == [10, 30]
    assert sorted(operation.single) == [-2, 0, 1, 3]


def test_an_error_of_the_clock_belongs_to_each_call() -> None:
    operation = Operation()
    operation.clock_failure = ValueError("no time")
    with operation.busy():
        calls = operation.gather([1, 2])
    assert [call.result(30) for call in calls] == [10, 20]
    assert operation.batches == []


def test_an_unknown_outcome_is_not_repeated() -> None:
    operation = Operation()
    operation.failure = OutcomeUnknown("the connection broke")
    with operation.busy():
        calls = operation.gather([1, 2])
    errors = [call.exception(30) for call in calls]
    assert [str(error) for error in errors] == ["the connection broke"] * 2
    assert errors[0] is not errors[1]
    assert {error.__cause__ for error in errors if error} == {operation.failure}
    assert operation.single == [0]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, TypeError])
def test_a_thread_that_fails_while_it_runs_a_batch(failure: type[BaseException]) -> None:
    operation = Operation()
    operation.failure = failure("stop")
    with operation.busy():
        calls = operation.gather([1, 2, 3])
    kinds = [type(call.exception(30)) for call in calls]
    assert kinds == [failure, OutcomeUnknown, OutcomeUnknown]
    assert operation.single == [0]
    assert operation.batched.call(4) == 40


def test_a_refused_call_does_not_join() -> None:
    operation = Operation()
    operation.refusal = TransactionOpen("inside")
    with pytest.raises(TransactionOpen):
        operation.batched.call(1)
    operation.refusal = None
    with operation.busy():
        operation.refusal = TransactionOpen("inside")
        assert isinstance(start(lambda: operation.batched.call(1)).exception(30), TransactionOpen)
        assert not operation.batcher.pending
    assert operation.single == [0]


class Interrupted:
    """Makes one thread's wait end with a KeyboardInterrupt, as a signal does."""

    def __init__(self, lock: Any, before: Callable[[], object]) -> None:
        self._lock = lock
        self._before = before

    def acquire(self) -> None:
        self._before()
        raise KeyboardInterrupt

    def release(self) -> None:
        self._lock.release()


def interrupted(operation: Operation, before: Callable[[], object], request: int = 1) -> Future[Any]:
    """A call whose thread is interrupted while it waits, once `before` has returned."""

    def call() -> int:
        made: list[Any] = []
        real = batching._ThreadCall.__init__

        def init(self: Any, request: int) -> None:
            real(self, request)
            if not made and threading.current_thread() is thread:
                made.append(self)
                self.wake = Interrupted(self.wake, before)

        thread = threading.current_thread()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batching._ThreadCall, "__init__", init)
            return operation.batched.call(request)

    waiting = len(operation.batcher.pending)
    future = start(call)
    until(lambda: len(operation.batcher.pending) > waiting)
    return future


def test_a_call_that_is_interrupted_while_it_waits_is_dropped() -> None:
    operation = Operation()
    go_on = threading.Event()
    with operation.busy():
        first = interrupted(operation, lambda: go_on.wait(30))
        calls = operation.gather([2, 3])
        go_on.set()
        assert isinstance(first.exception(30), KeyboardInterrupt)
    assert [call.result(30) for call in calls] == [20, 30]
    assert operation.batches == [[2, 3]]


@pytest.mark.parametrize("others", [[2, 3], []])
def test_an_interrupted_leader_leaves_its_batch_to_the_others(others: list[int]) -> None:
    operation = Operation()
    leads = threading.Event()
    with operation.busy():
        first = interrupted(operation, lambda: leads.wait(30))
        calls = operation.gather(others)
    until(lambda: not operation.batcher.pending)
    leads.set()
    assert isinstance(first.exception(30), KeyboardInterrupt)
    assert [call.result(30) for call in calls] == [20, 30][: len(others)]
    assert operation.batches == [others][: len(others)]
    until(lambda: operation.batcher.in_flight == 0)
    assert operation.batched.call(4) == 40


def test_no_place_leaks_under_load() -> None:
    operation = Operation(writers=2)

    def work(thread: int) -> list[int]:
        return [operation.batched.call(thread * 10 + number % 10) for number in range(200)]

    futures = [start(partial(work, thread)) for thread in range(8)]
    for thread, future in enumerate(futures):
        assert future.result(60) == [(thread * 10 + number % 10) * 10 for number in range(200)]
    assert operation.batcher.in_flight == 0
    assert not operation.batcher.pending


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_anew() -> None:
    operation = Operation()
    with operation.busy():
        calls = operation.gather([1])
        with operation.batcher._mutex:
            child = os.fork()
        if child == 0:
            os._exit(7 if operation.batched.call(2) == 20 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert calls[0].result(30) == 10


# On engines


@pytest.fixture
def storage(make_backend: Callable[[int], StorageBackend]) -> Storage:
    return Storage(make_backend(1), auto_prune=False)


class Undo(Exception):
    """Raised on purpose."""


@pytest.mark.parametrize("engine", ON_DISK, indirect=True)
def test_calls_of_a_transaction_are_not_batched(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.nonces.register("before")
    monkeypatch.setattr(ThreadBatcher, "call", lambda *_: pytest.fail("it must not wait for others"))
    with suppress(Undo), storage.transaction() as tx:
        assert tx.nonces.register("a")
        assert tx.idempotency.put("a", 1)
        with tx.transaction() as nested:
            assert nested.nonces.register("nested")
        raise Undo
    monkeypatch.undo()
    assert storage.nonces.register_many(["a", "nested"]) == [True] * 2


@pytest.fixture
def blocked(storage: Storage) -> Callable[[], Any]:
    """A block in which single calls of other threads wait: on the write lock, or on the only connection."""

    @contextmanager
    def block() -> Iterator[None]:
        with storage.transaction() as tx:
            tx.nonces.register("blocked")
            yield

    return block


def lined_up(batched: BatchedCall[Any, Any, Any], calls: Sequence[Callable[[], Any]]) -> list[Future[Any]]:
    """Each waits behind the one before; the first is in flight."""
    batcher = batched._batcher
    assert batcher is not None
    batched.writers = 1
    futures = [start(calls[0])]
    until(lambda: batcher.in_flight)
    for number, call in enumerate(calls[1:], 1):
        futures.append(start(call))
        until(lambda number=number: len(batcher.pending) == number)  # type: ignore[misc]
    return futures


@pytest.mark.parametrize("engine", ON_DISK, indirect=True)
def test_equal_keys_are_answered_as_one_after_another(storage: Storage, blocked: Callable[[], Any]) -> None:
    storage.ping()
    with blocked():
        pairs = [*zip("xabab", "xabab", strict=True), ("b", "other")]
        futures = lined_up(
            storage.idempotency._claiming,
            [partial(storage.idempotency.claim, key, fingerprint=f) for key, f in pairs],
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
        futures = lined_up(storage.queue._scheduler.batched, calls)
    assert "another content" in str(futures[4].exception(30))
    ids = [futures[place].result(30).id for place in (0, 1, 2, 5)]
    assert ids == sorted(set(ids))
    assert futures[3].result(30).id == ids[1]
    assert len(storage.queue.list()) == 4


@pytest.mark.parametrize("engine", ON_DISK, indirect=True)
def test_every_kind_of_call_is_batched(storage: Storage, blocked: Callable[[], Any]) -> None:
    def check(batched: BatchedCall[Any, Any, Any], call: Callable[[int], Any]) -> list[Any]:
        sizes = []
        batch = batched._batch

        def spied(context: Any, requests: Any, at: Any) -> Any:
            sizes.append(len(requests))
            return batch(context, requests, at)

        batched._batch = spied
        with blocked():
            futures = lined_up(batched, [partial(call, n) for n in range(4)])
        results = [future.result(30) for future in futures]
        assert sizes == [3]
        return results

    storage.ping()
    assert check(storage.nonces._batched, lambda n: storage.nonces.register(str(n % 3))) == [
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
    events = check(storage.events._batched, lambda n: storage.events.append("e", n))
    assert storage.events.read_after(0) == events
    assert [event.payload for event in events] == [0, 1, 2, 3]
    before = storage.metrics.read().latency
    check(storage.metrics._incrementing, lambda n: storage.metrics.increment(str(n % 2), n))
    check(storage.metrics._observing, lambda n: storage.metrics.observe_latency(n * 3 % 4))
    after = storage.metrics.read()
    assert after.counters == {"0": 2, "1": 4}
    assert (after.latency.count - before.count, after.latency.total_ms) == (4, before.total_ms + 6)
    assert after.latency.max_ms == 3
    jobs = check(storage.queue._scheduler.batched, lambda n: storage.queue.schedule("x", str(n)))
    assert storage.queue.list() == jobs
    assert [job.content for job in jobs] == ["0", "1", "2", "3"]
