"""The public API for authors of engines: the protocol, base classes with defaults, and a key-value base.

`docs/engines.md` is the guide. Names load their modules on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import (
        ApprovalStoreBase,
        BackendBase,
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
    from .values import IdempotencyRow, JobDraft, JsonText, KeyClaim, LockRow, Settlement

__all__ = [
    "PROTOCOL_VERSION",
    "ApprovalStoreBase",
    "BackendBase",
    "BufferedMap",
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
    "SessionStoreBase",
    "Settlement",
    "SnapshotStoreBase",
    "SortedKeys",
    "StorageBackend",
]

_MODULES = {
    "base": "BackendBase ApprovalStoreBase EventStoreBase IdempotencyStoreBase JobStoreBase "
    "LockStoreBase MetricStoreBase NonceStoreBase RetentionStoreBase SessionStoreBase SnapshotStoreBase",
    "keyvalue": "BufferedMap KeyValueBackend OrderedMap OrderedStore SortedKeys",
    "protocol": "PROTOCOL_VERSION StorageBackend",
    "values": "IdempotencyRow JobDraft JsonText KeyClaim LockRow Settlement",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
