"""A fault in what an operation does after an error: that error is raised, and no half of the work is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from assistly.storage import (
    AsyncStorage,
    MemoryBackend,
    OutcomeUnknown,
    SqliteBackend,
    Storage,
    StorageUnavailable,
)
from assistly.storage.engines.postgres.errors import translate
from assistly.storage.engines.sqlite.connections import Connection
from assistly.storage.testing.faults import Fault, FaultyBackend, fail_with, lose_reply
from assistly.storage.testing.fixtures import undone
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


def test_a_nested_transaction_that_cannot_be_undone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the one around it is not committed, even if the error is caught."""
    execute = Connection.execute

    def fail_to_undo(connection: Connection, statement: str, *params: Any) -> int:
        if statement.startswith("ROLLBACK TO"):
            raise StorageUnavailable("injected")
        return execute(connection, statement, *params)

    def nest(storage: Storage) -> None:
        with storage.transaction() as tx:
            tx.sessions.put("user", 1)
            with suppress(StorageUnavailable), undone(tx) as nested:
                nested.nonces.register("nonce")

    with closing(SqliteBackend(path)) as backend:
        storage = open_on(backend)
        storage.ping()
        with monkeypatch.context() as patches:
            patches.setattr(Connection, "execute", fail_to_undo)
            with pytest.raises(StorageUnavailable):
                nest(storage)
        assert storage.sessions.get("user") is None
        assert storage.nonces.register("nonce")


def test_an_error_of_libpq_itself() -> None:
    """It has no SQLSTATE, and no class of its own in the driver."""
    error = translate(psycopg.DatabaseError("server closed the connection unexpectedly"))
    assert type(error) is StorageUnavailable
