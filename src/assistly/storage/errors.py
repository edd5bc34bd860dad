"""All errors that this package raises, the same for every engine.

The exception of a driver is kept as ``__cause__``. Expected outcomes (nothing due, a lock held, a nonce
seen before) are return values, not errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import Approval, Job, Session


class StorageError(Exception):
    """The base class of all errors of this package."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ConfigurationError(StorageError):
    """A setting is missing or wrong. The message names the setting, and never contains a password."""


class InvalidValue(StorageError, ValueError):
    """An argument has the wrong type, size or form. Nothing was written."""


class NotFound(StorageError):
    """There is no record with that id."""


class AlreadyExists(StorageError):
    """A record with that id already exists. It was not changed."""


class Conflict(StorageError):
    """The stored state does not allow the change. Nothing was written."""


class ScheduleConflict(Conflict):
    """Another active job on the platform is nearer than ``min_gap``."""

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message, job)

    @property
    def job(self) -> Job:
        """The earliest of the jobs that are too near."""
        job: Job = self.args[1]
        return job


class VersionConflict(Conflict):
    """A session has another version than the caller expected."""

    def __init__(self, message: str, current: Session | None) -> None:
        super().__init__(message, current)

    @property
    def current(self) -> Session | None:
        """The stored session; None if there is none."""
        current: Session | None = self.args[1]
        return current


class StatusConflict(Conflict):
    """A job or an approval is in another status than the change needs."""

    def __init__(self, message: str, current: Job | Approval) -> None:
        super().__init__(message, current)

    @property
    def current(self) -> Job | Approval:
        """The stored record."""
        current: Job | Approval = self.args[1]
        return current


class IdempotencyMismatch(Conflict):
    """The idempotency key was already used for another job or command."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message, key)

    @property
    def key(self) -> str:
        """The idempotency key."""
        key: str = self.args[1]
        return key


class ClaimLost(StorageError):
    """The caller's claim has ended: it was reclaimed or settled, or its record was removed."""


class LockLost(StorageError):
    """The lock has expired, was released, or has another owner."""


class StorageUnavailable(StorageError):
    """The engine could not make the call now. Nothing was written, so the call can be retried."""


class TransactionAborted(StorageUnavailable):
    """The transaction was rolled back because of a deadlock or a serialization failure. Run it again."""


class TransactionOpen(StorageError):
    """The storage was called inside a transaction that was opened on it. Nothing was changed.

    Call the storage that `transaction()` returned.
    """


class OutcomeUnknown(StorageError):
    """The connection broke during a commit, so the write may or may not have been stored.

    Read before you repeat the call, or repeat it under an idempotency key.
    """


class MigrationError(StorageError):
    """The schema of the database does not match the migrations of this version."""


class StorageCorrupt(StorageError):
    """The database holds a value that this package cannot have written."""


class StorageClosed(StorageError):
    """The storage was closed, or the transaction has ended."""
