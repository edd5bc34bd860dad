"""The threads of an `AsyncStorage`: how many work at once, and how their answers come back."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from assistly.storage.aio import crew
from assistly.storage.aio.places import OneThread, Threads

PATIENCE = 30.0


class Undo(Exception):
    """Raised on purpose."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await work

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class Gate:
    """Calls that stay in their threads until it is opened."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self._open = threading.Event()

    def call(self, name: Any = None) -> Callable[[], Any]:
        return partial(self._pass, name)

    def open(self) -> None:
        self._open.set()

    def _pass(self, name: Any) -> Any:
        self.begun.append(name)
        assert self._open.wait(PATIENCE)
        return name


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def nobody_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_LATE", 10 * PATIENCE)


@pytest.fixture
def long_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_LINGER", 10 * PATIENCE)


def look(threads: Threads) -> None:
    assert threads._crew is not None
    threads._crew._look()


def test_two_threads_make_short_calls(gate: Gate, nobody_is_late: None) -> None:
    async def main() -> None:
        threads = Threads(10)
        answers = [threads.submit(gate.call(number)) for number in range(10)]
        await until(lambda: len(gate.begun) == 2)
        for _ in range(5):
            look(threads)
        assert threads._crew is not None
        assert threads._crew.shifts == 2
        gate.open()
        assert await asyncio.gather(*answers) == list(range(10))
        threads.join()

    run(main())


def test_calls_that_wait_for_the_engine_bring_more_threads(gate: Gate, nobody_is_late: None) -> None:
    async def main() -> None:
        threads = Threads(4)
        await asyncio.gather(*(threads.submit(gate.open) for _ in range(20)))
        assert threads._crew is not None
        threads._crew._elapsed, threads._crew._processor = 1.0, 0.001
        blocked = Gate()
        answers = [threads.submit(blocked.call(number)) for number in range(10)]
        await until(lambda: len(blocked.begun) == 4)
        blocked.open()
        await asyncio.gather(*answers)
        threads.join()

    run(main())


def test_each_late_call_makes_room_for_another(gate: Gate) -> None:
    async def main() -> None:
        threads = Threads(4)
        late = [threads.submit(gate.call(number)) for number in range(3)]
        await until(lambda: len(gate.begun) == 3)
        assert [await threads.run(partial(abs, -number)) for number in range(5)] == list(range(5))
        assert not any(answer.done() for answer in late)
        gate.open()
        await asyncio.gather(*late)
        threads.join()

    run(main())


def test_surplus_threads_leave(gate: Gate) -> None:
    async def main() -> None:
        threads = Threads(10)
        late = [threads.submit(gate.call(number)) for number in range(10)]
        await until(lambda: len(gate.begun) == 10)
        gate.open()
        await asyncio.gather(*late)
        assert threads._crew is not None
        threads._crew._elapsed = threads._crew._processor
        while threads._crew.shifts > 2:
            await asyncio.gather(*(threads.submit(gate.open) for _ in range(100)))
        threads.join()

    run(main())


def test_an_answer_does_not_wait_for_the_call_behind_it(gate: Gate, long_linger: None) -> None:
    async def main() -> None:
        threads = Threads(1)
        before = Gate()
        first, second = threads.submit(before.call(1)), threads.submit(gate.call(2))
        before.open()
        assert await first == 1
        assert not second.done()
        gate.open()
        assert await second == 2
        threads.join()

    run(main())


def test_the_loop_is_woken_once_for_several_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        woken: list[Callable[[], None]] = []
        wake = loop.call_soon_threadsafe

        def counted(call: Callable[[], None]) -> asyncio.Handle:
            woken.append(call)
            return wake(call)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        desk = crew.Desk(loop)
        answers = [loop.create_future() for _ in range(3)]
        for number, answer in enumerate(answers):
            errand = crew.Errand(partial(abs, -number), answer)
            errand.perform()
            desk.leave(errand)
            desk.call()
        assert await asyncio.gather(*answers) == [0, 1, 2]
        assert len(woken) == 1
        errand = crew.Errand(partial(abs, -3), loop.create_future())
        desk.leave(errand)
        desk.call()
        assert len(woken) == 2

    run(main())


def test_who_is_cancelled_in_line_is_not_called(gate: Gate) -> None:
    async def main() -> None:
        threads = Threads(1)
        first = threads.submit(gate.call("first"))
        calls = [asyncio.create_task(threads.run(gate.call(name))) for name in "abc"]
        await asyncio.sleep(0)
        await until(lambda: gate.begun == ["first"])
        calls[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[1]
        gate.open()
        assert await asyncio.gather(first, *calls[::2]) == ["first", "a", "c"]
        assert gate.begun == ["first", "a", "c"]
        threads.join()

    run(main())


def fail(kind: type[Exception], value: object) -> None:
    raise kind(value)


def test_no_future_takes_a_stop_iteration() -> None:
    async def main() -> None:
        threads = Threads(1)
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await threads.run(partial(fail, StopIteration, 1))
        assert isinstance(caught.value.__cause__, StopIteration)
        threads.join()

    run(main())


def test_errors_leave_no_cycle() -> None:
    class Value:
        pass

    async def main() -> weakref.ref[Value]:
        threads = Threads(1)
        value = Value()
        with suppress(Undo):
            await threads.run(partial(fail, Undo, value))
        threads.join()
        return weakref.ref(value)

    gc.disable()
    try:
        assert run(main())() is None
    finally:
        gc.enable()


# Threads that are lent


def test_a_lent_thread_is_not_kept_waiting_by_an_idle_one(long_linger: None) -> None:
    async def main() -> None:
        threads = Threads(1)
        for number in range(3):
            assert await threads.run(partial(abs, -number)) == number
            place = OneThread(threads)
            assert await place.run(lambda: "lent") == "lent"
            place.leave()
        threads.join()

    run(main())


def test_a_lent_thread_is_not_kept_waiting_by_busy_ones(gate: Gate) -> None:
    async def main() -> None:
        threads = Threads(2)
        done = False

        async def call_on_and_on() -> None:
            while not done:
                await threads.run(lambda: None)

        callers = [asyncio.create_task(call_on_and_on()) for _ in range(10)]
        await threads.run(lambda: None)
        places = [OneThread(threads) for _ in range(2)]
        answers = [asyncio.create_task(place.run(gate.call(number))) for number, place in enumerate(places)]
        await until(lambda: len(gate.begun) == 2)
        gate.open()
        await asyncio.gather(*answers)
        for place in places:
            place.leave()
        done = True
        await asyncio.gather(*callers)
        threads.join()

    run(main())


def test_a_lent_thread_is_one_less_for_calls(gate: Gate, nobody_is_late: None) -> None:
    async def main() -> None:
        threads = Threads(2)
        await threads.run(lambda: None)
        place = OneThread(threads)
        answers = [threads.submit(gate.call(number)) for number in range(5)]
        look(threads)
        assert threads._crew is not None
        assert threads._crew.shifts == 1
        place.leave()
        await until(lambda: len(gate.begun) == 2)
        gate.open()
        await asyncio.gather(*answers)
        threads.join()

    run(main())


# The end


def test_closing_ends_all_that_are_idle(gate: Gate, long_linger: None) -> None:
    async def main() -> None:
        threads = Threads(2)
        answers = [threads.submit(gate.call(number)) for number in range(2)]
        await until(lambda: len(gate.begun) == 2)
        gate.open()
        await asyncio.gather(*answers)
        await asyncio.to_thread(threads.join)

    run(main())


def test_closing_waits_for_all_calls_and_for_no_idle_thread(gate: Gate, long_linger: None) -> None:
    async def main() -> None:
        threads = Threads(3)
        await asyncio.gather(*(threads.submit(lambda: None) for _ in range(20)))
        calls = [threads.submit(gate.call(number)) for number in range(10)]
        threads.refuse()
        closing = asyncio.get_running_loop().run_in_executor(None, threads.join)
        await until(lambda: len(gate.begun) == 3)
        assert not closing.done()
        gate.open()
        await closing
        assert await asyncio.gather(*calls) == list(range(10))

    run(main())


def test_another_loop_does_not_wait_for_the_calls_of_the_last_one(gate: Gate, long_linger: None) -> None:
    threads = Threads(2)

    async def leave_behind() -> None:
        threads.submit(gate.call("left"))
        await until(lambda: gate.begun == ["left"])

    run(leave_behind())
    assert run(threads.run(lambda: 1)) == 1
    assert run(threads.run(lambda: 2)) == 2
    gate.open()
    threads.join()


def test_threads_end_when_they_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_LINGER", 0.001)
    before = set(threading.enumerate())
    threads = Threads(2)
    run(threads.run(lambda: None))
    mine = set(threading.enumerate()) - before
    assert mine
    del threads
    gc.collect()
    for thread in mine:
        thread.join(PATIENCE)
        assert not thread.is_alive()
