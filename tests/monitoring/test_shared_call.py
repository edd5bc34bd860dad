"""A call whose result several requests share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from assistly.monitoring.shared_call import NoAnswer, SharedCall
from waiting import PATIENCE, until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Call:
    """Returns how often it was made, once it may."""

    def __init__(self) -> None:
        self.made = 0
        self.may_return = threading.Event()
        self.may_return.set()
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.made += 1
        made = self.made
        assert self.may_return.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def call() -> Call:
    return Call()


def shared(call: Call, clock: Clock, limit: float = PATIENCE) -> SharedCall[int]:
    return SharedCall("test-call", call, keep=1.0, limit=limit, clock=clock)


def test_a_result_is_used_again_for_a_second(call: Call, clock: Clock) -> None:
    asked = shared(call, clock)
    assert asked.result() == 1
    clock.now += 0.99
    assert asked.result() == 1
    clock.now += 0.01
    assert asked.result() == 2


def test_the_second_begins_when_the_call_has_ended(call: Call, clock: Clock) -> None:
    asked = shared(call, clock)
    call.may_return.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(asked.result)
        until(lambda: call.made)
        clock.now += 50
        call.may_return.set()
        assert first.result(PATIENCE) == 1
    assert asked.result() == 1


def test_a_call_that_began_too_long_ago_is_not_waited_for(call: Call, clock: Clock) -> None:
    asked = shared(call, clock, limit=1000.0)
    call.may_return.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(asked.result)
        until(lambda: call.made)
        clock.now += 1000.0
        with pytest.raises(NoAnswer, match="no answer for 1000 s"):
            asked.result()
        call.may_return.set()
        first.exception(PATIENCE)  # it may have looked at the clock before or after


def test_those_who_ask_at_the_same_time_share_one_call(call: Call, clock: Clock) -> None:
    asked = shared(call, clock)
    call.may_return.clear()
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(asked.result) for _ in range(8)]
        until(lambda: call.made)
        call.may_return.set()
        assert {result.result(PATIENCE) for result in results} == {1}


def test_a_call_that_hangs_is_waited_for_once(call: Call, clock: Clock) -> None:
    asked = shared(call, clock, limit=0.05)
    call.may_return.clear()
    with pytest.raises(NoAnswer, match="no answer for 0 s"):
        asked.result()
    clock.now += 7
    for _ in range(100):
        with pytest.raises(NoAnswer, match="no answer for 7 s"):
            asked.result()
    assert call.made == 1
    call.may_return.set()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "test-call"])
    clock.now += 1
    clock.now -= 0.5
    assert asked.result() == 1


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("no")])
def test_an_error_is_shared_as_well(call: Call, clock: Clock, error: Exception) -> None:
    asked = shared(call, clock)
    call.error = error
    for _ in range(2):
        with pytest.raises(type(error), match="no"):
            asked.result()
    assert call.made == 1
    call.error = None
    clock.now += 1
    assert asked.result() == 2


def test_no_thread_can_be_started(call: Call, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    asked = shared(call, clock)
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            asked.result()
    clock.now += 1
    assert asked.result() == 1
