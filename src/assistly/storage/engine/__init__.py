"""The public API for authors of engines: the protocol, base classes with defaults, and a key-value base.

`docs/engines.md` is the guide. Names load their modules on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...lazy import load_attribute

if TYPE_CHECKING:
    from .base import (
        ApprovalStoreBase,
        BackendBase,
        DocumentStoreBase,
        EventStoreBase,
        IdempotencyStoreBase,
        JobStoreBase,
        LockStoreBase,
        MetricStoreBase,
        NonceStoreBase,
        RetentionStoreBase,
        SessionStoreBase,
        SnapshotStoreBase,
    )
    from .keyvalue import BufferedMap, KeyValueBackend, OrderedMap, OrderedStore, SortedKeys
    from .protocol import PROTOCOL_VERSION, StorageBackend
    from .transfer import ROW_KINDS, RowKind
    from .values import PAUSES, Document, IdempotencyRow, JobDraft, JsonText, KeyClaim, LockRow, Settlement

__all__ = [
    "PAUSES",
    "PROTOCOL_VERSION",
    "ROW_KINDS",
    "ApprovalStoreBase",
    "BackendBase",
    "BufferedMap",
    "Document",
    "DocumentStoreBase",
    "EventStoreBase",
    "IdempotencyRow",
    "IdempotencyStoreBase",
    "JobDraft",
    "JobStoreBase",
    "JsonText",
    "KeyClaim",
    "KeyValueBackend",
    "LockRow",
    "LockStoreBase",
    "MetricStoreBase",
    "NonceStoreBase",
    "OrderedMap",
    "OrderedStore",
    "RetentionStoreBase",
    "RowKind",
    "SessionStoreBase",
    "Settlement",
    "SnapshotStoreBase",
    "SortedKeys",
    "StorageBackend",
]

_MODULES = {
    "base": "BackendBase ApprovalStoreBase DocumentStoreBase EventStoreBase IdempotencyStoreBase "
    "JobStoreBase LockStoreBase MetricStoreBase NonceStoreBase RetentionStoreBase SessionStoreBase "
    "SnapshotStoreBase",
    "keyvalue": "BufferedMap KeyValueBackend OrderedMap OrderedStore SortedKeys",
    "protocol": "PROTOCOL_VERSION StorageBackend",
    "transfer": "ROW_KINDS RowKind",
    "values": "PAUSES Document IdempotencyRow JobDraft JsonText KeyClaim LockRow Settlement",
}


def __getattr__(name: str) -> Any:
    return load_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
