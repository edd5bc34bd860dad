"""The contract on each mutant. `test_mutants` runs this file in a pytest of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from assistly.storage.testing import ForkContract, LifecycleContract
from assistly.storage.testing.approvals_contract import ApprovalsContract
from assistly.storage.testing.documents_contract import DocumentsContract, DocumentTransactionsContract
from assistly.storage.testing.engine_contract import LookAheadContract, SavingContract, WakeUpContract
from assistly.storage.testing.events_contract import EventsContract
from assistly.storage.testing.fixtures import Contract
from assistly.storage.testing.idempotency_contract import IdempotencyFenceContract
from assistly.storage.testing.idempotency_forget_contract import IdempotencyForgetContract
from assistly.storage.testing.json_contract import JsonContract
from assistly.storage.testing.lock_contract import LockContract
from assistly.storage.testing.metrics_contract import LatencyContract, MetricsContract
from assistly.storage.testing.names_contract import LongNamesContract
from assistly.storage.testing.pauses_contract import (
    NextDueContract,
    PausedClaimsContract,
    PausedWaitsContract,
)
from assistly.storage.testing.prunable_contract import PrunableContract
from assistly.storage.testing.queue_cancelling_contract import QueueCancellingContract
from assistly.storage.testing.queue_changes_contract import QueueChangesContract
from assistly.storage.testing.queue_checkpoint_contract import QueueCheckpointContract
from assistly.storage.testing.queue_choices_contract import (
    QueueMissedContract,
    QueueReplayChoicesContract,
)
from assistly.storage.testing.queue_claiming_contract import (
    QueueClaimingContract,
    QueueFenceContract,
    QueueLeasesContract,
)
from assistly.storage.testing.queue_contract import QueueReadingContract
from assistly.storage.testing.queue_depths_contract import QueueDepthsContract
from assistly.storage.testing.queue_gaps_contract import QueueGapsContract
from assistly.storage.testing.queue_lateness_contract import QueueLatenessContract
from assistly.storage.testing.queue_rescue_contract import QueueDeadLettersContract, QueueRescueContract
from assistly.storage.testing.queue_timeline_contract import QueueTimelineContract
from assistly.storage.testing.queue_upcoming_contract import (
    QueueUpcomingContract,
    QueueWaitingForPlatformsContract,
)
from assistly.storage.testing.retention_contract import (
    PruneOnceAMinuteContract,
    RetentionAgesContract,
    RetentionCapsContract,
)
from assistly.storage.testing.sessions_contract import SessionsContract
from assistly.storage.testing.transaction_calls_contract import TransactionThreadsContract
from assistly.storage.testing.transactions_contract import TransactionsContract

from . import catalog, engine
from .stores import NaiveEngine

CONCERNED: dict[type[NaiveEngine], type[Contract]] = {
    catalog.CapsKeepTheOldest: RetentionCapsContract,
    catalog.PrunesWhatIsExactlyThatOld: RetentionAgesContract,
    catalog.TakesTheStampOfAnother: PruneOnceAMinuteContract,
    catalog.CountingDeletes: PrunableContract,
    catalog.CountsWhatIsExactlyThatOld: PrunableContract,
    catalog.CountsAtMostTwo: PrunableContract,
    catalog.GapIncludesItsEdge: QueueGapsContract,
    catalog.SettlesWithoutFence: QueueFenceContract,
    catalog.SettlesBatchesWithoutFence: QueueFenceContract,
    catalog.PostedJobsAreTheHoldersCopy: QueueFenceContract,
    catalog.ClaimedJobsAreNeverLate: QueueLatenessContract,
    catalog.ReplaysTheNewest: QueueDeadLettersContract,
    catalog.ReplaysUnknownOutcomes: QueueReplayChoicesContract,
    catalog.ReplaysMissedJobs: QueueReplayChoicesContract,
    catalog.ReplaysCancelledJobsWithOthers: QueueReplayChoicesContract,
    catalog.LimitCountsWhatIsLeftOut: QueueReplayChoicesContract,
    catalog.MissedIsAnyReasonThatBeginsSo: QueueMissedContract,
    catalog.ReplaysNoCancelledJobs: QueueCancellingContract,
    catalog.ReplayKeepsTheCheckpoint: QueueCheckpointContract,
    catalog.PostedJobsKeepTheCheckpoint: QueueCheckpointContract,
    catalog.PostedJobsHaveTheHoldersCheckpoint: QueueCheckpointContract,
    catalog.FailuresLoseTheCheckpoint: QueueCheckpointContract,
    catalog.SavedJobsAreTheCallersToChange: QueueCheckpointContract,
    catalog.CountsNoCancelledJobs: QueueCancellingContract,
    catalog.CancelledJobsKeepTheirSlot: QueueCancellingContract,
    catalog.CancelledJobsWait: QueueCancellingContract,
    catalog.WaitIgnoresPlatforms: QueueWaitingForPlatformsContract,
    catalog.WaitKnowsNoTwoPlatforms: QueueWaitingForPlatformsContract,
    catalog.WaitReturnsAtOnce: QueueWaitingForPlatformsContract,
    catalog.PagesOfWaitingJobsByTime: QueueUpcomingContract,
    catalog.UntilIsNotIncluded: QueueUpcomingContract,
    catalog.DueNowIsNotDueInDepths: QueueDepthsContract,
    catalog.DepthsEndBehindTheLimit: QueueDepthsContract,
    catalog.DepthsAreAlwaysExact: QueueDepthsContract,
    catalog.TimelineIncludesItsEnd: QueueTimelineContract,
    catalog.TimelineIsAlwaysExact: QueueTimelineContract,
    catalog.TimelineForgetsRetries: QueueTimelineContract,
    catalog.SumsWrapAt64Bits: MetricsContract,
    catalog.KeepsTheLastLatency: LatencyContract,
    catalog.RescuesWithoutTheLease: QueueRescueContract,
    catalog.RescuesOneTickLate: QueueRescueContract,
    catalog.ExtendsWhatRanOut: QueueLeasesContract,
    catalog.ClaimsInIdOrder: QueueClaimingContract,
    catalog.ClaimIgnoresItsLimit: QueueClaimingContract,
    catalog.HandsOutLateJobs: QueueLatenessContract,
    catalog.LooksAtLateJobsOfAllPlatforms: LookAheadContract,
    catalog.NeverClaimsUnlessOverdue: LookAheadContract,
    catalog.ClaimsThoughOverdue: LookAheadContract,
    catalog.MovesLateJobsById: LookAheadContract,
    catalog.LateJobsKeepTheirRetryTime: LookAheadContract,
    catalog.ReplayKeepsRetries: QueueDeadLettersContract,
    catalog.WaitOnlySleeps: WakeUpContract,
    catalog.WaitForgetsTheLook: WakeUpContract,
    catalog.WaitHearsOfNoTransaction: WakeUpContract,
    catalog.IgnoresPauses: PausedClaimsContract,
    catalog.PausesNeverEnd: PausedClaimsContract,
    catalog.PausesEndOneTickLate: PausedClaimsContract,
    catalog.PausesEndByFloats: NextDueContract,
    catalog.MissesOnlyWhatRuns: PausedClaimsContract,
    catalog.PausesHoldLeases: PausedClaimsContract,
    catalog.PausesEndClaims: PausedClaimsContract,
    catalog.FindsJobsDuringPauses: NextDueContract,
    catalog.SleepsThroughTheEndOfAPause: PausedWaitsContract,
    catalog.PausesWakeNobody: PausedWaitsContract,
    catalog.PutsAtAnyVersion: DocumentsContract,
    catalog.PutsOnlyNewOnesAtAVersion: DocumentsContract,
    catalog.VersionsBeginAnew: DocumentsContract,
    catalog.DocumentsKeepTheirDate: DocumentsContract,
    catalog.ListsAllCollections: DocumentsContract,
    catalog.DocumentsIgnoreCase: DocumentsContract,
    catalog.DeletesFromAllCollections: DocumentsContract,
    catalog.RollbackLeavesDocuments: DocumentTransactionsContract,
    catalog.TiesBrokenByKey: ApprovalsContract,
    catalog.FloatsComeBackAsIntegers: JsonContract,
    catalog.SessionsLoseUpdates: SessionsContract,
    catalog.CompletesWithoutToken: IdempotencyFenceContract,
    catalog.ForgetsNoKeyInProgress: IdempotencyForgetContract,
    catalog.ForgetsWhatIsUnknown: IdempotencyForgetContract,
    catalog.ReleaseForgetsTheFence: LockContract,
    catalog.ListsLocksOneTickLate: LockContract,
    catalog.ListsLocksInInsertionOrder: LockContract,
    catalog.UsesTheIdsOfJobsAgain: QueueReadingContract,
    catalog.UsesTheIdsOfEventsAgain: EventsContract,
    catalog.RollbackLeavesNonces: TransactionsContract,
    catalog.OtherThreadsReadOutsideTheTransaction: TransactionThreadsContract,
    catalog.CallsOfTheThreadJoin: TransactionThreadsContract,
    catalog.TransactionsBelongToTheirThread: TransactionThreadsContract,
    catalog.CommitsThoughClosed: LifecycleContract,
    catalog.CloseKeepsFilesOpen: LifecycleContract,
    catalog.MaintainsThoughClosed: LifecycleContract,
    catalog.KnowsNoForks: ForkContract,
    catalog.ChildSeesWhatIsNotCommitted: ForkContract,
    **dict.fromkeys(catalog.CUTTING, LongNamesContract),
    **dict.fromkeys(catalog.SAVING, SavingContract),
    **dict.fromkeys(catalog.UNDATED, QueueChangesContract),
}
"""Of each mutant, the contract that has to find it."""


def contract_on(mutant: type[NaiveEngine], contract: type[Contract]) -> type[Contract]:
    def backend(self: Contract) -> NaiveEngine:
        return mutant()

    def new_backend(self: Contract) -> Callable[[], NaiveEngine]:
        return mutant

    def impatient_backend(self: Contract, monkeypatch: pytest.MonkeyPatch) -> NaiveEngine:
        monkeypatch.setattr(engine, "_LOCK_SECONDS", 0.2)
        return mutant()

    made = (backend, new_backend, impatient_backend)
    fixtures = {function.__name__: pytest.fixture(function) for function in made}
    return type(f"Test{mutant.__name__}", (contract,), fixtures)


globals().update(
    {f"Test{mutant.__name__}": contract_on(mutant, contract) for mutant, contract in CONCERNED.items()}
)
