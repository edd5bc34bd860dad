"""The keywords of `open_storage` that are settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from os import PathLike

    from pydantic import SecretStr


class SettingsKeywords(TypedDict, total=False):
    """The keywords of `open_storage` for settings, except the settings of plug-ins."""

    engine: str
    database_url: str | SecretStr | None
    sqlite_path: str | PathLike[str]
    pool_size: int
    schema: str
    auto_migrate: bool
    timeout_seconds: float
    vacuum: Literal["worker", "off"]
    retention_approvals_days: float
    retention_max_approvals: int
    retention_idempotency_days: float
    retention_max_idempotency: int
    retention_nonces_days: float
    retention_posted_days: float | None
    retention_events_days: float | None
    retention_sessions_days: float | None
    schedule_max_retries: int
    schedule_retry_minutes: float
    schedule_worker_lock_seconds: float
