"""The closed vocabulary of errors: whatever the engine, a caller sees only these.

A driver's own exception is kept as ``__cause__``. Expected outcomes (nothing due, a lock
held, a nonce seen before) are return values, not errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import Approval, Job, Session


class StorageError(Exception):
    """The base of everything that this package raises."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ConfigurationError(StorageError):
    """A setting is missing or wrong. The message names it; never a password."""


class InvalidValue(StorageError, ValueError):
    """An argument has the wrong type, size or form. Nothing was written."""


class NotFound(StorageError):
    """There is no record with that id."""


class AlreadyExists(StorageError):
    """A record with that id is there already, and it was left as it is."""


class Conflict(StorageError):
    """The stored state does not allow the change. Nothing was written."""


class ScheduleConflict(Conflict):
    """Another active job on the platform is nearer than ``min_gap``."""

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message, job)

    @property
    def job(self) -> Job:
        """The earliest of the jobs that are in the way."""
        job: Job = self.args[1]
        return job


class VersionConflict(Conflict):
    """A session is at another version than the caller expected."""

    def __init__(self, message: str, current: Session | None) -> None:
        super().__init__(message, current)

    @property
    def current(self) -> Session | None:
        """The session as it is stored, or None where there is none."""
        current: Session | None = self.args[1]
        return current


class StatusConflict(Conflict):
    """A job or an approval is in another status than the change needs."""

    def __init__(self, message: str, current: Job | Approval) -> None:
        super().__init__(message, current)

    @property
    def current(self) -> Job | Approval:
        """The record as it is stored."""
        current: Job | Approval = self.args[1]
        return current


class IdempotencyMismatch(Conflict):
    """The key was used before, for something else."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message, key)

    @property
    def key(self) -> str:
        key: str = self.args[1]
        return key


class ClaimLost(StorageError):
    """The claim is no longer the caller's: taken back, settled, or its record removed."""


class LockLost(StorageError):
    """The worker lock expired or has another owner."""


class StorageUnavailable(StorageError):
    """The engine could not do it now and nothing was written: worth a retry."""


class TransactionAborted(StorageUnavailable):
    """The transaction lost a deadlock or a serialization race, and was undone: run it again."""


class TransactionOpen(StorageError):
    """The storage was called inside a transaction that was opened on it. Nothing was changed.

    Call the storage that `transaction()` returned.
    """


class OutcomeUnknown(StorageError):
    """The connection broke while a write was being committed: it may have landed.

    Repeat the call only under an idempotency key, or read first.
    """


class MigrationError(StorageError):
    """The schema and the migrations of this version do not go together."""


class StorageCorrupt(StorageError):
    """The database holds something that this package cannot have written."""


class StorageClosed(StorageError):
    """The storage, or the transaction, has ended."""
