"""The contract on each planted bug. `test_planted_bugs` runs this file in a pytest of its own."""

from __future__ import annotations

import pytest

from assistly.storage.testing.approvals_contract import ApprovalsContract
from assistly.storage.testing.fixtures import Contract
from assistly.storage.testing.idempotency_contract import IdempotencyFenceContract
from assistly.storage.testing.json_contract import JsonContract
from assistly.storage.testing.lock_contract import LockContract
from assistly.storage.testing.queue_contract import QueueContract
from assistly.storage.testing.retention_contract import RetentionAgesContract, RetentionCapsContract
from assistly.storage.testing.sessions_contract import SessionsContract
from assistly.storage.testing.transactions_contract import TransactionsContract

from .bugs import (
    BUGS,
    CapsKeepTheOldest,
    CompletesWithoutToken,
    FloatsComeBackAsIntegers,
    PrunesWhatIsExactlyThatOld,
    ReleaseForgetsTheFence,
    RollbackLeavesNonces,
    SessionsLoseUpdates,
    TiesBrokenByKey,
)
from .stores import PlainEngine

ELSEWHERE: dict[type[PlainEngine], type[Contract]] = {
    CapsKeepTheOldest: RetentionCapsContract,
    PrunesWhatIsExactlyThatOld: RetentionAgesContract,
    TiesBrokenByKey: ApprovalsContract,
    FloatsComeBackAsIntegers: JsonContract,
    SessionsLoseUpdates: SessionsContract,
    CompletesWithoutToken: IdempotencyFenceContract,
    ReleaseForgetsTheFence: LockContract,
    RollbackLeavesNonces: TransactionsContract,
}
"""The part of the contract that has to do with the bug; for the others it is the queue's."""


def contract_on(bug: type[PlainEngine]) -> type[Contract]:
    def backend(self: Contract) -> PlainEngine:
        return bug()

    contract = ELSEWHERE.get(bug, QueueContract)
    return type(f"Test{bug.__name__}", (contract,), {"backend": pytest.fixture(backend)})


for bug in BUGS:
    globals()[f"Test{bug.__name__}"] = contract_on(bug)
del bug
