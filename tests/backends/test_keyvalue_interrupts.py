"""Exceptions that come between any two lines of a call on a key-value engine, as signal handlers raise them.

The call is stored whole or not at all, and no lock stays held: the next call works at once.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from linecache import getline
from types import FrameType
from typing import Any

import pytest

from assistly.storage import Storage
from assistly.storage.engine.keyvalue import backend as keyvalue_backend
from assistly.storage.engines import memory
from assistly.storage.engines.memory import MemoryBackend
from assistly.storage.errors import StorageClosed, StorageUnavailable
from assistly.storage.records import JobStatus
from assistly.storage.testing.forking import ForkedChild, needs_fork

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
PATIENCE = 20.0
PATHS = (keyvalue_backend.__file__.rpartition("/")[0], memory.__file__, threading.__file__)

LOCKING = re.compile(r" *with self\.\w+:$")
"""A `with` block of a lock of the interpreter: nothing comes between its last line and the release."""


class Interrupt(BaseException):
    pass


@contextmanager
def interrupted_at(number: int) -> Iterator[list[str]]:
    """Raise Interrupt before the `number`th line of the engine, or of `threading`, that this thread comes to.

    Yields a list, which gets the place of that line.
    """
    places: list[str] = []
    entered: dict[FrameType, int] = {}
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(PATHS):
            return None
        is_exit = entered.get(frame) == frame.f_lineno
        if LOCKING.match(getline(frame.f_code.co_filename, frame.f_lineno)):
            entered[frame] = frame.f_lineno
        if event == "line" and not places and not is_exit:
            lines += 1
            if lines == number:
                places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
                raise Interrupt
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        yield places
    finally:
        sys.settrace(former)
        entered.clear()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that finds the lock held fails at once."""
    monkeypatch.setattr(keyvalue_backend, "LOCK_SECONDS", 0.0)


def opened() -> Storage:
    storage = Storage(MemoryBackend(), auto_prune=False)
    storage.queue.schedule("x", "hello", idempotency_key="first", scheduled_at=NOW)
    return storage


def register(storage: Storage) -> None:
    storage.nonces.register("new")


def schedule(storage: Storage) -> None:
    storage.queue.schedule("x", "hello", idempotency_key="new")


def transact(storage: Storage) -> None:
    with storage.transaction() as tx:
        tx.nonces.register("new")
        tx.queue.schedule("x", "hello", idempotency_key="new")


def claim(storage: Storage) -> None:
    storage.queue.claim_due(worker_id="w")


def read(storage: Storage) -> None:
    storage.queue.list()


def is_registered(storage: Storage) -> set[bool]:
    return {storage.nonces.seen("new")}


def is_scheduled(storage: Storage) -> set[bool]:
    waiting = storage.queue.list(status=JobStatus.SCHEDULED)
    return {
        any(job.idempotency_key == "new" for job in storage.queue.list()),
        any(job.idempotency_key == "new" for job in waiting),
        storage.queue.counts()[JobStatus.SCHEDULED] == 2,
    }


def is_claimed(storage: Storage) -> set[bool]:
    return {
        any(job.status is JobStatus.PROCESSING for job in storage.queue.list()),
        not storage.queue.list(status=JobStatus.SCHEDULED),
        storage.queue.counts()[JobStatus.PROCESSING] == 1,
    }


CALLS: dict[str, tuple[Callable[[Storage], None], Callable[[Storage], set[bool]]]] = {
    "register": (register, is_registered),
    "schedule": (schedule, is_scheduled),
    "transact": (transact, lambda storage: is_registered(storage) | is_scheduled(storage)),
    "claim": (claim, is_claimed),
    "read": (read, is_registered),
}


def interrupt(storage: Storage, call: Callable[[Storage], None], number: int) -> list[str]:
    """Make the call, interrupted at a line; returns the place, or nothing if the call has fewer lines."""
    with interrupted_at(number) as places, suppress(Interrupt):
        call(storage)
    return places


def use(storage: Storage, found: Callable[[Storage], set[bool]]) -> set[bool]:
    """Write, and return what `found` finds."""
    state = found(storage)
    storage.events.append("next", {})
    return state


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_line(name: str) -> None:
    call, found = CALLS[name]
    outcomes: list[bool] = []
    for number in count(1):
        storage = opened()
        places = interrupt(storage, call, number)
        with ThreadPoolExecutor(1) as other:
            state = use(storage, found) | other.submit(use, storage, found).result(PATIENCE)
        assert len(state) == 1, f"half of it is stored after {places}"
        assert len(storage.events.list()) == 2, places
        outcomes += state
        if not places:
            break
    assert len(outcomes) > 15
    assert set(outcomes) == ({False} if name == "read" else {False, True})


def test_a_block_that_is_dropped_without_an_end() -> None:
    backend = MemoryBackend()
    backend.ping()
    block = backend.write()
    block.__enter__().put(b"dropped", b"")
    with pytest.raises(StorageUnavailable):
        backend.nonces.register("a", 1)
    del block
    assert backend.nonces.register("a", 1)
    with backend.read() as map:
        assert map.get(b"dropped") is None


def test_a_transaction_that_is_dropped_without_an_end() -> None:
    backend = MemoryBackend()
    block = backend.transaction()
    tx = block.__enter__()
    tx.nonces.register("dropped", 1)
    with pytest.raises(StorageUnavailable):
        backend.nonces.register("a", 1)
    del block
    assert backend.nonces.register("a", 1)
    assert not backend.nonces.seen("dropped")


def test_a_write_that_waits_for_a_block_that_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyvalue_backend, "LOCK_SECONDS", PATIENCE)
    backend = MemoryBackend()
    backend.ping()
    block = backend.write()
    block.__enter__()
    started = threading.Event()

    def write() -> bool:
        started.set()
        return backend.nonces.register("a", 1)

    with ThreadPoolExecutor(1) as other:
        writer = other.submit(write)
        assert started.wait(PATIENCE)
        del block
        assert writer.result(PATIENCE / 2)


@pytest.mark.parametrize("ending", ["end", "drop"])
def test_a_block_that_ends_after_another_has_begun_in_its_place(ending: str) -> None:
    """What was undone by `close` is not committed, and does not free the lock of others."""
    backend = MemoryBackend()
    block = backend.transaction()
    block.__enter__()
    backend.close()
    if ending == "drop":
        del block
    else:
        with pytest.raises(StorageClosed):
            block.__exit__(None, None, None)


@needs_fork
def test_a_child_that_is_forked_while_a_block_is_open() -> None:
    backend = MemoryBackend()
    backend.ping()
    block = backend.write()
    block.__enter__().put(b"parent", b"")
    assert ForkedChild(lambda _: backend.nonces.register("a", 1)).result() is True
    with pytest.raises(StorageUnavailable):
        backend.nonces.register("a", 1)
    block.__exit__(None, None, None)
    assert backend.nonces.register("a", 1)
