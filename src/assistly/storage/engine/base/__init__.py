"""Defaults for engines: what can be derived from other members is derived here.

An author implements the abstract methods, and overrides any other where the engine can do better.
The derived operations read with `lock`, decide by `assistly.storage.transitions` and save, inside a
transaction. That is right where transactions exclude each other (SQLite, LMDB, a lock in memory). An
engine whose transactions run side by side must lock rows in `get(lock=True)`, and has to override
`IdempotencyStoreBase.claim` and `LockStoreBase.acquire`, which lock what may not be there yet.
"""

from .backend import BackendBase, StoreBase
from .jobs import POLL_SECONDS, JobStoreBase
from .records import (
    ApprovalStoreBase,
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
