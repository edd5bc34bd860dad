"""Group commit: single calls of several tasks that share one statement, and one trip to a thread."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from assistly.storage import (
    AsyncStorage,
    IdempotencyMismatch,
    InvalidValue,
    OutcomeUnknown,
    Storage,
    StorageBackend,
    StorageUnavailable,
    batching,
)
from assistly.storage.aio.batching import TaskBatcher, is_light
from assistly.storage.aio.threads import ThreadPools
from assistly.storage.batching import BatchedCall

Open = Callable[..., AsyncStorage]


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Undo(Exception):
    """Raised on purpose."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(90):
            return await work

    return asyncio.run(bounded())


class Spy:
    """The calls of the engine's nonce store, and the trips to threads; `first` holds one there."""

    def __init__(self, storage: AsyncStorage, patch: pytest.MonkeyPatch) -> None:
        self.single: list[str] = []
        self.batches: list[list[str]] = []
        self.trips = 0
        self.failure: Exception | None = None
        self._gate = threading.Event()
        self._gate.set()
        storage._storage.nonces._batched.writers = 1
        nonces = storage._storage._backend.nonces
        register, register_many, submit = nonces.register, nonces.register_many, ThreadPools.submit

        def one(nonce: str, timestamp_ms: int) -> bool:
            self.single.append(nonce)
            assert self._gate.wait(30)
            return register(nonce, timestamp_ms)

        def many(rows: Any) -> Any:
            self.batches.append([nonce for nonce, _ in rows])
            assert self._gate.wait(30)
            if self.failure is not None:
                raise self.failure
            return register_many(rows)

        def counted(threads: ThreadPools, call: Any, **options: Any) -> Any:
            self.trips += 1
            return submit(threads, call, **options)

        patch.setattr(nonces, "register", one)
        patch.setattr(nonces, "register_many", many)
        patch.setattr(ThreadPools, "submit", counted)

    async def first(self, storage: AsyncStorage) -> asyncio.Task[bool]:
        """One that is under way until `go_on`."""
        self._gate.clear()
        task = asyncio.create_task(storage.nonces.register("first"))
        while "first" not in self.single:
            await asyncio.sleep(0.001)
        return task

    def go_on(self) -> None:
        self._gate.set()


@pytest.fixture
def storage(open_one: Open) -> AsyncStorage:
    return open_one(threads=4)


@pytest.fixture
def spy(storage: AsyncStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    spy = Spy(storage, monkeypatch)
    yield spy
    spy.go_on()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def registered(storage: AsyncStorage, *nonces: str) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(storage.nonces.register(nonce)) for nonce in nonces]


def test_a_lone_call_runs_at_once(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        async with storage:
            assert [await storage.nonces.register(nonce) for nonce in "aba"] == [True, True, False]
            assert (spy.single, spy.batches, spy.trips) == (["a", "b", "a"], [], 3)

    run(main())


def test_one_turn_of_the_loop_is_one_trip(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        async with storage:
            nonces = [f"n{number}" for number in range(50)]
            answers = await asyncio.gather(*(storage.nonces.register(nonce) for nonce in [*nonces, "n7"]))
            assert answers == [True] * 50 + [False]
            assert (spy.single, spy.trips) == ([], 1)
            assert sorted(spy.batches[0]) == sorted(nonces)

    run(main())


def test_calls_that_come_meanwhile_run_next_and_together(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        async with storage:
            first = await spy.first(storage)
            calls = registered(storage, "a", "b")
            await turns()
            calls += registered(storage, "c")
            await turns()
            assert spy.batches == []
            spy.go_on()
            assert await asyncio.gather(first, *calls) == [True] * 4
            assert spy.batches == [["a", "b", "c"]]

    run(main())


def test_a_batch_is_bounded(storage: AsyncStorage, spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_CALLS", 10)

    async def main() -> None:
        async with storage:
            answers = await asyncio.gather(*(storage.nonces.register(f"n{number}") for number in range(25)))
            assert answers == [True] * 25
            assert [len(batch) for batch in spy.batches] == [10, 10, 5]

    run(main())


def test_the_calls_of_a_failed_batch_are_made_singly(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        async with storage:
            spy.failure = StorageUnavailable("one of them is not possible")
            assert sorted(await asyncio.gather(*registered(storage, "a", "b", "a"))) == [False, True, True]
            assert sorted(spy.single) == ["a", "a", "b"]

    run(main())


def test_an_unknown_outcome_is_not_repeated(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        async with storage:
            spy.failure = OutcomeUnknown("the connection broke")
            errors = await asyncio.gather(*registered(storage, "a", "b"), return_exceptions=True)
            assert [type(error) for error in errors] == [OutcomeUnknown] * 2
            assert errors[0] is not errors[1]
            assert spy.single == []

    run(main())


def test_after_a_bug_the_outcome_is_unknown(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        async with storage:
            spy.failure = TypeError("a bug")
            errors = await asyncio.gather(*registered(storage, "a", "b"), return_exceptions=True)
            assert [type(error) for error in errors] == [OutcomeUnknown] * 2
            spy.failure = None
            assert await storage.nonces.register("c")

    run(main())


def test_a_wrong_argument_comes_out_before_the_trip(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        async with storage:
            calls: list[Awaitable[Any]] = [
                storage.nonces.register("a"),
                storage.nonces.register(""),
                storage.nonces.register("b"),
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert answers[::2] == [True, True]
            assert isinstance(answers[1], InvalidValue)
            assert spy.batches == [["a", "b"]]
            wrong: list[Awaitable[Any]] = [
                storage.idempotency.claim("a", lease=1),  # type: ignore[arg-type]
                storage.idempotency.put("a", object()),  # type: ignore[arg-type]
                storage.events.append("", 1),
                storage.metrics.increment("a", 1.5),  # type: ignore[arg-type]
                storage.metrics.observe_latency(-1),
                storage.queue.schedule("x", "a", max_retries=0),
            ]
            for call in wrong:
                with pytest.raises(InvalidValue):
                    await call
            assert spy.trips == 1

    run(main())


def test_equal_keys_are_answered_as_one_after_another(storage: AsyncStorage) -> None:
    async def main() -> None:
        async with storage:
            claims = await asyncio.gather(*(storage.idempotency.claim("key") for _ in range(10)))
            assert sorted(claim.state for claim in claims) == ["acquired"] + ["in_progress"] * 9
            jobs = await asyncio.gather(
                *(storage.queue.schedule("x", text, idempotency_key="key") for text in ["a"] * 5 + ["b"]),
                return_exceptions=True,
            )
            assert len({job.id for job in jobs if not isinstance(job, BaseException)}) == 1
            assert [type(job) for job in jobs if isinstance(job, BaseException)] == [IdempotencyMismatch]

    run(main())


def test_every_kind_of_call_is_batched(storage: AsyncStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    trips: list[int] = []
    run_batch = BatchedCall.run_batch

    def spied(operation: Any, requests: Any) -> Any:
        trips.append(len(requests))
        return run_batch(operation, requests)

    monkeypatch.setattr(BatchedCall, "run_batch", spied)
    calls: list[Callable[[int], Coroutine[Any, Any, Any]]] = [
        lambda n: storage.nonces.register(f"n{n}"),
        lambda n: storage.idempotency.claim(f"c{n}"),
        lambda n: storage.idempotency.put(f"p{n}", n),
        lambda n: storage.events.append("e", n),
        lambda n: storage.metrics.increment("m", n),
        lambda n: storage.metrics.observe_latency(n),
        lambda n: storage.queue.schedule("x", str(n)),
    ]

    async def main() -> None:
        async with storage:
            for call in calls:
                await asyncio.gather(*(call(n) for n in range(3)))
            assert trips == [3] * len(calls)
            assert [event.payload for event in await storage.events.read_after(0)] == [0, 1, 2]
            assert [job.content for job in await storage.queue.list()] == ["0", "1", "2"]
            record = await storage.idempotency.get("p2")
            assert record is not None
            assert record.value == 2
            metrics = await storage.metrics.read()
            assert (metrics.counters, metrics.latency.count) == ({"m": 3}, 3)

    run(main())


# Cancellation


def test_a_pending_call_that_is_cancelled_is_dropped(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        async with storage:
            first = await spy.first(storage)
            calls = registered(storage, "a", "b", "c")
            await turns()
            calls[1].cancel()
            await turns()
            spy.go_on()
            assert await asyncio.gather(*[first, *calls[::2]]) == [True] * 3
            assert spy.batches == [["a", "c"]]
            assert not await storage.nonces.seen("b")

    run(main())


def test_a_call_in_flight_that_is_cancelled_leaves_the_others_alone(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        async with storage:
            spy._gate.clear()
            calls = registered(storage, "a", "b", "c")
            while not spy.batches:
                await asyncio.sleep(0.001)
            calls[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await calls[1]
            spy.go_on()
            assert await asyncio.gather(*calls[::2]) == [True] * 2
            assert await storage.nonces.seen("b")

    run(main())


def test_cancelled_at_random(storage: AsyncStorage) -> None:
    dice = random.Random(7)

    async def main() -> None:
        async with storage:
            returned: set[int] = set()

            async def one(number: int) -> None:
                name = f"n{number}"
                calls: list[Callable[[], Awaitable[Any]]] = [
                    lambda: storage.nonces.register(name),
                    lambda: storage.events.append(name, number),
                    lambda: storage.idempotency.put(name, number),
                    lambda: storage.queue.schedule(name, "a", idempotency_key=name),
                ]
                await calls[number % len(calls)]()
                await storage.metrics.increment("all")
                returned.add(number)

            async def start_and_cancel(numbers: Iterator[int]) -> None:
                for number in numbers:
                    task = asyncio.create_task(one(number))
                    await turns(dice.choice([0, 1, 3, 10, 100]))
                    if dice.random() < 0.7:
                        task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

            numbers = iter(range(600))
            await asyncio.gather(*(start_and_cancel(numbers) for _ in range(12)))
            assert 100 < len(returned) < 600
            counted = (await storage.metrics.read()).counters["all"]
            assert len(returned) <= counted <= 600
            for number in range(600):
                name = f"n{number}"
                record = await storage.idempotency.get(name)
                there = [
                    await storage.nonces.seen(name),
                    len(await storage.events.list(event_type=name)) == 1,
                    record is not None and record.value == number,
                    len(await storage.queue.list(platform=name)) == 1,
                ]
                assert number not in returned or there[number % len(there)], name
                assert sum(there) <= 1

    run(main())


# Transactions, closing, loops


def test_a_transaction_does_not_batch(storage: AsyncStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with storage:
            await storage.ping()
            monkeypatch.setattr(TaskBatcher, "call", lambda *_: pytest.fail("it must not wait"))
            with suppress(Undo):
                async with storage.transaction() as tx:
                    assert await asyncio.gather(*(tx.nonces.register(nonce) for nonce in "ab")) == [True] * 2
                    async with tx.transaction() as nested:
                        assert await nested.nonces.register("nested")
                    raise Undo
            monkeypatch.undo()
            assert await storage.nonces.register_many(["a", "b", "nested"]) == [True] * 3

    run(main())


def test_closing_waits_for_all_that_were_called(storage: AsyncStorage, spy: Spy) -> None:
    async def main() -> None:
        first = await spy.first(storage)
        calls = registered(storage, "a", "b")
        await turns()
        closing = asyncio.create_task(storage.close())
        await turns()
        assert not closing.done()
        spy.go_on()
        assert await asyncio.gather(first, *calls) == [True] * 3
        await closing

    run(main())


def test_another_loop_starts_anew(
    make_backend: Callable[[int], StorageBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = AsyncStorage(Storage(make_backend(2), auto_prune=False), threads=2)
    spy = Spy(storage, monkeypatch)

    async def left_behind() -> None:
        await spy.first(storage)
        registered(storage, "in line")
        await turns()

    run(left_behind())
    spy.go_on()

    async def main() -> None:
        async with storage:
            assert await asyncio.gather(*registered(storage, "a", "b")) == [True] * 2

    run(main())


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_a_held_key_holds_up_no_other(open_one: Open, database_url: str, schema: str) -> None:
    async def main() -> None:
        async with open_one(threads=4) as storage:
            await storage.ping()
            with psycopg.connect(database_url) as other:
                other.execute(f"INSERT INTO {schema}.assistly_nonces VALUES ('held', 1)")
                (held,) = registered(storage, "held")
                await turns()
                assert await storage.nonces.register("free")
                assert await asyncio.gather(*registered(storage, "a", "b", "c")) == [True] * 3
                assert not held.done()
                other.rollback()
            assert await held

    run(main())


def test_what_is_light() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert is_light("x" * 19_990, {"a": [1, 2.5, None, {"b": "c"}]}, [0] * 150)
    for heavy in ("x" * 20_001, ["x" * 15_000, {"x" * 15_000: 1}], [0] * 201, [[0] * 150] * 2, endless):
        assert not is_light(heavy)


def test_large_values_are_checked_in_a_thread(storage: AsyncStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with storage:
            await storage.ping()
            monkeypatch.setattr(TaskBatcher, "call", lambda *_: pytest.fail("it would hold up the loop"))
            heavy: Any = [0] * 300
            assert (await storage.idempotency.put("a", heavy)).value == heavy
            assert (await storage.events.append("a", heavy)).payload == heavy
            assert (await storage.queue.schedule("x", "a" * 30_000)).content == "a" * 30_000
            assert (await storage.queue.schedule("x", "a", metadata={"m": heavy})).metadata == {"m": heavy}

    run(main())
