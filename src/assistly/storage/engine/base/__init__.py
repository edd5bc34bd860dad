"""Base classes for engines: defaults for the members that can be derived from others.

An author implements the abstract methods, and overrides others where the engine can be faster. A derived
operation runs in a transaction: it reads with `lock`, changes the record with a function of
`assistly.storage.transitions`, and saves it. That suffices where write transactions exclude each other
(SQLite, LMDB, a lock in memory). An engine with concurrent write transactions must lock rows in
`get(lock=True)`, and must override `IdempotencyStoreBase.claim` and `LockStoreBase.acquire`: they would
have to lock rows that do not exist yet.
"""

from .backend import BackendBase, StoreBase
from .jobs import POLL_SECONDS, JobStoreBase
from .records import (
    ApprovalStoreBase,
    DocumentStoreBase,
    EventStoreBase,
    IdempotencyStoreBase,
    LockStoreBase,
    MetricStoreBase,
    NonceStoreBase,
    RetentionStoreBase,
    SessionStoreBase,
    SnapshotStoreBase,
)

__all__ = [
    "POLL_SECONDS",
    "ApprovalStoreBase",
    "BackendBase",
    "DocumentStoreBase",
    "EventStoreBase",
    "IdempotencyStoreBase",
    "JobStoreBase",
    "LockStoreBase",
    "MetricStoreBase",
    "NonceStoreBase",
    "RetentionStoreBase",
    "SessionStoreBase",
    "SnapshotStoreBase",
    "StoreBase",
]
