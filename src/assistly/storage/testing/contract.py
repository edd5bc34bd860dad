"""All the contract classes in one."""

from __future__ import annotations

from .approvals_contract import ApprovalDecisionsContract, ApprovalsContract
from .batches_contract import BatchesContract
from .documents_contract import DocumentsContract, DocumentTransactionsContract
from .engine_contract import LookAheadContract, SavingContract, TraitsContract, WakeUpContract
from .events_contract import EventReadingContract, EventsContract
from .idempotency_contract import (
    FingerprintsContract,
    IdempotencyContract,
    IdempotencyFenceContract,
    IdempotencySequencesContract,
    RunOnceContract,
)
from .idempotency_forget_contract import IdempotencyForgetContract
from .json_contract import JsonContract
from .limits_contract import LimitsContract
from .lock_contract import LockContract
from .metrics_contract import LatencyContract, MetricsContract
from .mirror_contract import MirrorContract
from .names_contract import LongNamesContract
from .nonces_contract import NoncesContract
from .pauses_contract import NextDueContract, PausedClaimsContract, PausedWaitsContract
from .platforms_contract import PauseAtLeastContract, PlatformsContract
from .prunable_contract import PrunableContract
from .queue_contract import QueueContract
from .retention_contract import PruneOnceAMinuteContract, RetentionAgesContract, RetentionCapsContract
from .schedule_changes_contract import ScheduleChangesContract, ScheduleSwitchesContract
from .schedules_contract import ScheduleRunsContract, SchedulesContract
from .sessions_contract import SessionsContract, SessionUpdatesContract
from .snapshots_contract import SnapshotsContract
from .transaction_calls_contract import TransactionCallsContract, TransactionThreadsContract
from .transactions_contract import TransactionErrorsContract, TransactionsContract
from .transfer_contract import TransferContract
from .values_contract import TextContract, TimesContract


class StorageContract(
    QueueContract,
    SessionsContract,
    SessionUpdatesContract,
    ApprovalsContract,
    ApprovalDecisionsContract,
    IdempotencyContract,
    FingerprintsContract,
    IdempotencyFenceContract,
    RunOnceContract,
    IdempotencySequencesContract,
    IdempotencyForgetContract,
    NoncesContract,
    BatchesContract,
    MetricsContract,
    LatencyContract,
    LockContract,
    EventsContract,
    EventReadingContract,
    SnapshotsContract,
    DocumentsContract,
    DocumentTransactionsContract,
    PlatformsContract,
    PauseAtLeastContract,
    LimitsContract,
    PausedClaimsContract,
    NextDueContract,
    PausedWaitsContract,
    SchedulesContract,
    ScheduleRunsContract,
    ScheduleChangesContract,
    ScheduleSwitchesContract,
    MirrorContract,
    RetentionAgesContract,
    RetentionCapsContract,
    PruneOnceAMinuteContract,
    PrunableContract,
    JsonContract,
    TextContract,
    LongNamesContract,
    TimesContract,
    TransactionsContract,
    TransactionErrorsContract,
    TransactionCallsContract,
    TransactionThreadsContract,
    TransferContract,
    TraitsContract,
    SavingContract,
    LookAheadContract,
    WakeUpContract,
):
    """The contract of all operations. `LifecycleContract` covers opening and closing."""
