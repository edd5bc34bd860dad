"""What a long batch does to the garbage collector of its host, and undoes."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator

import pytest

from assistly.storage.engines.postgres import collector
from assistly.storage.engines.postgres.collector import young_only
from forking import needs_fork

LONG = 10_000


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_a_long_batch_pauses_it_and_no_other_does() -> None:
    with young_only(LONG - 1):
        assert gc.isenabled()
    with young_only(LONG):
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), young_only(LONG):
        raise ZeroDivisionError
    assert gc.isenabled()


def test_it_stays_off_where_the_application_turned_it_off() -> None:
    gc.disable()
    with young_only(LONG) as made:
        cycle = weakref.ref(Cycle())
        made(LONG)
        assert cycle() is not None
    assert not gc.isenabled()


def test_garbage_of_others_is_collected_meanwhile() -> None:
    with young_only(LONG) as made:
        cycle = weakref.ref(Cycle())
        made(LONG - 1)
        assert cycle() is not None
        made(1)
        assert cycle() is None


def test_it_goes_on_once_either_of_two_batches_has_ended() -> None:
    """The one that came second must not leave it off, whichever ends first."""
    second = young_only(LONG)
    with young_only(LONG):
        second.__enter__()
    assert gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("turned_off", [True, False])
def test_a_child_has_it_as_the_application_wants_it(turned_off: bool) -> None:
    if turned_off:
        gc.disable()
    with young_only(LONG):
        child = os.fork()
        if not child:
            os._exit(gc.isenabled())
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (not turned_off)


def test_threads_that_begin_and_end_at_will_leave_it_on() -> None:
    def batches() -> None:
        for _ in range(200):
            with young_only(LONG) as made:
                made(1)

    threads = [threading.Thread(target=batches) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gc.isenabled()
    assert not collector._paused
