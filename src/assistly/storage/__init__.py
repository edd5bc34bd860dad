"""Storage for bots and webhook workers, on memory, SQLite or Postgres.

Everything public is here. Names load their modules on first use, so that importing this
package costs next to nothing and loads no driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..lazy import load_attribute

if TYPE_CHECKING:
    from .aio import AsyncStorage, open_async_storage
    from .clock import Clock
    from .engine.protocol import StorageBackend
    from .engines.memory import MemoryBackend
    from .engines.postgres import PostgresBackend
    from .engines.sqlite import SqliteBackend
    from .errors import (
        AlreadyExists,
        ClaimLost,
        ConfigurationError,
        Conflict,
        IdempotencyMismatch,
        InvalidValue,
        LockLost,
        MigrationError,
        NotFound,
        OutcomeUnknown,
        ScheduleConflict,
        StatusConflict,
        StorageClosed,
        StorageCorrupt,
        StorageError,
        StorageUnavailable,
        TransactionAborted,
        TransactionOpen,
        VersionConflict,
    )
    from .factory import open_storage
    from .mirroring import mirror
    from .records import (
        Approval,
        Attempt,
        Claimed,
        ClaimState,
        Event,
        Failed,
        IdempotencyClaim,
        IdempotencyRecord,
        Job,
        JobStatus,
        Json,
        JsonValue,
        Latency,
        Metrics,
        NewEvent,
        NewJob,
        Outcome,
        Platform,
        PoolConnections,
        Posted,
        Prunable,
        PrunableCount,
        PruneReport,
        QueueDepth,
        Released,
        Schedule,
        Session,
        Settled,
        Snapshot,
        Snoozed,
        TimelineCount,
        Unknown,
        WorkerLock,
    )
    from .retention import RetentionPolicy
    from .retry import ExponentialRetry, RetryPolicy
    from .settings import StorageSettings
    from .storage import Storage

__all__ = [
    "AlreadyExists",
    "Approval",
    "AsyncStorage",
    "Attempt",
    "ClaimLost",
    "ClaimState",
    "Claimed",
    "Clock",
    "ConfigurationError",
    "Conflict",
    "Event",
    "ExponentialRetry",
    "Failed",
    "IdempotencyClaim",
    "IdempotencyMismatch",
    "IdempotencyRecord",
    "InvalidValue",
    "Job",
    "JobStatus",
    "Json",
    "JsonValue",
    "Latency",
    "LockLost",
    "MemoryBackend",
    "Metrics",
    "MigrationError",
    "NewEvent",
    "NewJob",
    "NotFound",
    "Outcome",
    "OutcomeUnknown",
    "Platform",
    "PoolConnections",
    "Posted",
    "PostgresBackend",
    "Prunable",
    "PrunableCount",
    "PruneReport",
    "QueueDepth",
    "Released",
    "RetentionPolicy",
    "RetryPolicy",
    "Schedule",
    "ScheduleConflict",
    "Session",
    "Settled",
    "Snapshot",
    "Snoozed",
    "SqliteBackend",
    "StatusConflict",
    "Storage",
    "StorageBackend",
    "StorageClosed",
    "StorageCorrupt",
    "StorageError",
    "StorageSettings",
    "StorageUnavailable",
    "TimelineCount",
    "TransactionAborted",
    "TransactionOpen",
    "Unknown",
    "VersionConflict",
    "WorkerLock",
    "mirror",
    "open_async_storage",
    "open_storage",
]

_MODULES = {
    "aio": "AsyncStorage open_async_storage",
    "engine.protocol": "StorageBackend",
    "clock": "Clock",
    "engines.memory": "MemoryBackend",
    "engines.postgres": "PostgresBackend",
    "engines.sqlite": "SqliteBackend",
    "errors": "AlreadyExists ClaimLost ConfigurationError Conflict IdempotencyMismatch InvalidValue LockLost "
    "MigrationError NotFound OutcomeUnknown ScheduleConflict StatusConflict StorageClosed StorageCorrupt "
    "StorageError StorageUnavailable TransactionAborted TransactionOpen VersionConflict",
    "factory": "open_storage",
    "mirroring": "mirror",
    "records": "Approval Attempt Claimed ClaimState Event Failed IdempotencyClaim IdempotencyRecord Job "
    "JobStatus Json JsonValue Latency Metrics NewEvent NewJob Outcome Platform PoolConnections Posted "
    "Prunable PrunableCount PruneReport QueueDepth Released Schedule Session Settled Snapshot Snoozed "
    "TimelineCount Unknown WorkerLock",
    "retention": "RetentionPolicy",
    "retry": "ExponentialRetry RetryPolicy",
    "settings": "StorageSettings",
    "storage": "Storage",
}


def __getattr__(name: str) -> Any:
    return load_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
