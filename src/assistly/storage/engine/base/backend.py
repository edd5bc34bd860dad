"""The base of backends, and of their stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, Self, TypeVar

from ...errors import ConfigurationError, InvalidValue
from ...records import PoolConnections
from ...validation import with_article
from ..moving import cannot_move
from ..protocol import PROTOCOL_VERSION, JobStore
from ..record_stores import (
    ApprovalStore,
    DocumentStore,
    EventStore,
    IdempotencyStore,
    LockStore,
    MetricStore,
    NonceStore,
    RetentionStore,
    SessionStore,
    SnapshotStore,
)
from ..transfer import Row
from ..values import Document, JsonText


class NoDocuments:
    """The documents of an engine from before protocol version 2: there are none."""

    # ruff: noqa: ARG002
    def get(self, collection: str, key: str, *, lock: bool = False) -> Document | None:
        """None."""
        return None

    def put(
        self, collection: str, key: str, data: JsonText, *, expected_version: int | None, now: datetime
    ) -> Document | None:
        """Raise ConfigurationError."""
        raise ConfigurationError(f"this engine cannot store {collection}: documents need protocol version 2")

    def delete(self, collection: str, key: str) -> bool:
        """False."""
        return False

    def list(self, collection: str, *, after: str | None, limit: int) -> Sequence[Document]:
        """An empty list."""
        return []


B = TypeVar("B", bound="BackendBase")


class BackendBase(ABC):
    """An engine. A subclass sets the eleven stores as attributes, and has `transaction` and `close`."""

    protocol_version = PROTOCOL_VERSION
    in_process = False
    durable = True
    multi_process = True
    binds = False
    writers = 0
    call_limit = 30.0
    """The most seconds that a call waits for other writers or for answers. A worker that is in one call for
    many times as long counts as stuck."""

    jobs: JobStore
    sessions: SessionStore
    approvals: ApprovalStore
    idempotency: IdempotencyStore
    nonces: NonceStore
    metrics: MetricStore
    lock: LockStore
    events: EventStore
    snapshots: SnapshotStore
    documents: DocumentStore = NoDocuments()
    retention: RetentionStore

    @abstractmethod
    def transaction(self) -> AbstractContextManager[BackendBase]:
        """See `StorageBackend.transaction`. The yielded backend has stores of its own."""

    @abstractmethod
    def close(self) -> None:
        """See `StorageBackend.close`."""

    def now(self) -> datetime:
        """The time of this machine's clock."""
        return datetime.now(UTC)

    def lease_time(self, now: datetime) -> datetime:
        """The time from which leases, locks and claims are counted, where `now` is the engine's time.

        By default the same. An engine overrides it if it knows that its clock was set back.
        """
        return now

    def ping(self) -> None:
        """Read a nonce, which is one round trip."""
        self.nonces.seen("ping")

    def migrate(self) -> list[str]:
        """Ping, and apply nothing. An engine with migrations overrides it."""
        self.ping()
        return []

    def maintain(self) -> None:
        """Ping, which fails after `close`. By default there is nothing to clean up."""
        self.ping()

    def sizes(self) -> dict[str, int]:
        """How many bytes the data takes, by the name of what holds them. Empty by default: not known."""
        return {}

    def connections(self) -> PoolConnections | None:
        """The connections of the pool. None by default: there is no pool. It must not wait."""
        return None

    def bind(self, connection: Any) -> BackendBase:
        """Raise InvalidValue: by default an engine has no connections to bind."""
        given = with_article(type(connection).__name__)
        raise InvalidValue(
            f"{type(self).__name__} has no connections to bind; got {given}. "
            "The engines sqlite and postgres have connections; in tests, use sqlite"
        )

    def snapshot(self, *, hold_writers: bool = False) -> AbstractContextManager[BackendBase]:
        """Raise ConfigurationError: by default an engine cannot be exported or copied."""
        raise cannot_move(self, "snapshot")

    def read_rows(self, kind: str, *, after: Row | None, limit: int) -> Sequence[Row]:
        """Raise ConfigurationError, as `snapshot`."""
        raise cannot_move(self, "read_rows")

    def write_rows(
        self,
        kind: str,
        rows: Sequence[Row],
        *,
        after: Row | None,
        through: Row | None,
    ) -> None:
        """Raise ConfigurationError, as `snapshot`."""
        raise cannot_move(self, "write_rows")


class StoreBase(Generic[B]):
    """A store of `backend`, which may be the backend of a transaction.

    An author's store finds the backend in `self._backend`. Its constructor takes the backend, and may take
    more.
    """

    attribute: ClassVar[str]
    """The attribute of a backend that holds this kind of store."""

    def __init__(self, backend: B) -> None:
        self._backend = backend

    @contextmanager
    def _atomic(self) -> Iterator[Self]:
        """Begin a transaction (in one, a savepoint) for the block, and give the store of this kind in it."""
        with self._backend.transaction() as tx:
            store: Self = getattr(tx, self.attribute)
            yield store
