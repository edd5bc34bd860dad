"""The contract once more, with every call that can be batched made by the batch statement.

On the engines that batch calls, which memory does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from assistly.storage import OutcomeUnknown, PostgresBackend, SqliteBackend, StorageBackend
from assistly.storage.batching import RETRY_SINGLY, BatchedCall
from assistly.storage.errors import StorageError
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


def call_in_a_batch(operation: BatchedCall[Any, Any, Any], request: Any) -> Any:
    """As `BatchedCall.call` does it, with a batch of one."""
    context = operation._context
    context.check()
    try:
        (answer,) = operation._batch(context, [request], context.now(None))
    except OutcomeUnknown:
        raise
    except StorageError:
        answer = RETRY_SINGLY
    return operation.result(request, answer)


@pytest.fixture(autouse=True)
def always_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchedCall, "call", call_in_a_batch)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageBackend]:
    backend = SqliteBackend(tmp_path_factory.mktemp("sqlite") / "batched.db")
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


class Batched(
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
    """The kinds of record whose single calls are batched."""


class TestBatchedSqlite(Batched):
    engine = "sqlite"


class TestBatchedPostgres(Batched):
    engine = "postgres"
