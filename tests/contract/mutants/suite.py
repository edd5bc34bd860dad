"""The contract on each mutants bug. `test_planted_bugs` runs this file in a pytest of its own."""

from __future__ import annotations

import pytest

from assistly.storage.testing.approvals_contract import ApprovalsContract
from assistly.storage.testing.fixtures import Contract
from assistly.storage.testing.idempotency_contract import IdempotencyFenceContract
from assistly.storage.testing.json_contract import JsonContract
from assistly.storage.testing.lock_contract import LockContract
from assistly.storage.testing.queue_claiming_contract import (
    QueueClaimingContract,
    QueueFenceContract,
    QueueLatenessContract,
    QueueLeasesContract,
)
from assistly.storage.testing.queue_gaps_contract import QueueGapsContract
from assistly.storage.testing.queue_rescue_contract import QueueDeadLettersContract
from assistly.storage.testing.retention_contract import RetentionAgesContract, RetentionCapsContract
from assistly.storage.testing.sessions_contract import SessionsContract
from assistly.storage.testing.transactions_contract import TransactionsContract

from . import bugs
from .stores import PlainEngine

CONCERNED: dict[type[PlainEngine], type[Contract]] = {
    bugs.CapsKeepTheOldest: RetentionCapsContract,
    bugs.PrunesWhatIsExactlyThatOld: RetentionAgesContract,
    bugs.GapIncludesItsEdge: QueueGapsContract,
    bugs.SettlesWithoutFence: QueueFenceContract,
    bugs.LeaseEndsOneTickLate: QueueLeasesContract,
    bugs.ClaimsInIdOrder: QueueClaimingContract,
    bugs.ClaimIgnoresItsLimit: QueueClaimingContract,
    bugs.HandsOutMissedJobs: QueueLatenessContract,
    bugs.ReplayKeepsRetries: QueueDeadLettersContract,
    bugs.TiesBrokenByKey: ApprovalsContract,
    bugs.FloatsComeBackAsIntegers: JsonContract,
    bugs.SessionsLoseUpdates: SessionsContract,
    bugs.CompletesWithoutToken: IdempotencyFenceContract,
    bugs.ReleaseForgetsTheFence: LockContract,
    bugs.RollbackLeavesNonces: TransactionsContract,
}


def contract_on(bug: type[PlainEngine]) -> type[Contract]:
    def backend(self: Contract) -> PlainEngine:
        return bug()

    return type(f"Test{bug.__name__}", (CONCERNED[bug],), {"backend": pytest.fixture(backend)})


globals().update({f"Test{bug.__name__}": contract_on(bug) for bug in bugs.BUGS})
