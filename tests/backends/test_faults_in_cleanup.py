"""A fault in what an operation does after an error: the first error is the one that is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing

import pytest

from assistly.storage import AsyncStorage, MemoryBackend, OutcomeUnknown, Storage
from assistly.storage.testing.faults import Fault, FaultyBackend, fail_with, lose_reply
from backends.fault_operations import open_on


class Failed(Exception):
    """Of the application."""


def fail() -> None:
    raise Failed


async def fail_later() -> None:
    raise Failed


@pytest.fixture
def faulty() -> Iterator[FaultyBackend]:
    with closing(FaultyBackend(MemoryBackend())) as faulty:
        yield faulty


@pytest.fixture
def storage(faulty: FaultyBackend) -> Storage:
    return open_on(faulty)


def test_run_once_when_the_key_cannot_be_given_up(faulty: FaultyBackend, storage: Storage) -> None:
    faulty.inject(Fault(fail_with(), method="idempotency.abandon"))
    with pytest.raises(Failed):
        storage.idempotency.run_once("key", fail)
    assert faulty.injected == ["idempotency.abandon"]


def test_async_run_once_when_the_key_cannot_be_given_up(faulty: FaultyBackend, storage: Storage) -> None:
    async def run() -> None:
        async with AsyncStorage(storage) as opened:
            await opened.idempotency.run_once("key", fail_later)

    faulty.inject(Fault(fail_with(), method="idempotency.abandon"))
    with pytest.raises(Failed):
        asyncio.run(run())
    assert faulty.injected == ["idempotency.abandon"]


def test_a_prune_that_cannot_reset_its_time(faulty: FaultyBackend, storage: Storage) -> None:
    faulty.inject(
        Fault(lose_reply(), when="after", method="retention.delete_older"),
        Fault(fail_with(), method="retention.reset_prune"),
    )
    with pytest.raises(OutcomeUnknown):
        storage.prune(force=True)
    assert faulty.injected == ["retention.delete_older", "retention.reset_prune"]
