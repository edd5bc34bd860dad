"""The contract once more, with every call made as if it travelled in a statement with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from assistly.storage import MemoryBackend, OutcomeUnknown, PostgresBackend, SqliteBackend, StorageBackend
from assistly.storage.errors import StorageError
from assistly.storage.batching import ALONE, Shared
from assistly.storage.stores.nonces import Nonces, registration
from assistly.storage.testing.events_contract import EventReadingContract, EventsContract
from assistly.storage.testing.idempotency_contract import (
    FingerprintsContract,
    IdempotencyContract,
    IdempotencyFenceContract,
    IdempotencySequencesContract,
    RunOnceContract,
)
from assistly.storage.testing.metrics_contract import LatencyContract, MetricsContract
from assistly.storage.testing.nonces_contract import NoncesContract
from assistly.storage.testing.queue_scheduling_contract import QueueKeysContract, QueueSchedulingContract
from assistly.storage.testing.retention_contract import RetentionCapsContract
from assistly.storage.testing.transactions_contract import TransactionsContract


def travel(shared: Shared[Any, Any], request: Any) -> Any:
    try:
        at = shared._context.now(None)
        (answer,) = shared._together(shared._context, [request], at)
    except OutcomeUnknown:
        raise
    except StorageError:
        answer = ALONE
    return shared.unpack(request, answer)


def register(nonces: Nonces, nonce: str, timestamp: datetime | None = None) -> Any:
    return travel(nonces._registering, registration(nonce, timestamp))


@pytest.fixture(autouse=True)
def always_travelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shared, "call", travel)
    monkeypatch.setattr(Nonces, "register", register)


@pytest.fixture(scope="module")
def memory() -> StorageBackend:
    return MemoryBackend()


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageBackend]:
    backend = SqliteBackend(tmp_path_factory.mktemp("sqlite") / "grouped.db")
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def postgres(database_url: str, new_schema: Callable[[], str]) -> Iterator[StorageBackend]:
    backend = PostgresBackend(database_url, schema=new_schema())
    yield backend
    backend.close()


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.cls.engine)


class Grouped(
    QueueSchedulingContract,
    QueueKeysContract,
    IdempotencyContract,
    FingerprintsContract,
    IdempotencyFenceContract,
    RunOnceContract,
    IdempotencySequencesContract,
    NoncesContract,
    MetricsContract,
    LatencyContract,
    EventsContract,
    EventReadingContract,
    RetentionCapsContract,
    TransactionsContract,
):
    """The kinds of record of which single calls may travel together."""


class TestGroupedMemory(Grouped):
    engine = "memory"


class TestGroupedSqlite(Grouped):
    engine = "sqlite"


class TestGroupedPostgres(Grouped):
    engine = "postgres"
