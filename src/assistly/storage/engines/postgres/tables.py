"""The tables that are locked while nobody may write."""

from __future__ import annotations

from .dialect import PostgresDialect

_TABLES = (
    *("documents", "sessions", "approvals", "idempotency", "nonces", "metrics", "worker_lock", "store"),
    *("events", "queue_jobs", "retention"),
)


def locked_tables(dialect: PostgresDialect) -> str:
    """The list of a LOCK TABLE. A command has no parameters, so no percent sign is doubled."""
    return ", ".join(f"{dialect.quoted_schema}.assistly_{name}" for name in _TABLES)
