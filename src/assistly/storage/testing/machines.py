"""State machines that drive an engine and the model side by side.

    class TestMine(MachineContract):
        @pytest.fixture
        def backend(self): ...

To run several engines in lock-step, give a machine more than one `Engine`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis.stateful import run_state_machine_as_test

from ..backend import StorageBackend
from .fixtures import examples
from .machine_queue import QueueRules
from .machine_records import ApprovalRules, IdempotencyRules, LockRules, LogRules, SessionRules
from .machine_sides import Engine, SideBySide


class QueueMachine(QueueRules):
    """The life cycle of jobs, with several workers and stale claims."""


class SessionMachine(SessionRules):
    pass


class ApprovalMachine(ApprovalRules):
    pass


class IdempotencyMachine(IdempotencyRules):
    pass


class LockMachine(LockRules):
    pass


class LogMachine(LogRules):
    pass


class StorageMachine(QueueRules, SessionRules, ApprovalRules, IdempotencyRules, LockRules, LogRules):
    """All kinds together, which is what transactions and prunes work on."""


def run_machine(machine: type[SideBySide], *engines: Engine, count: int, steps: int = 30) -> None:
    """Run `count` random programs of up to `steps` steps; the smallest one that fails is printed."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: machine(*engines), settings=examples(count, steps=steps)
    )


class MachineContract:
    """The machines as tests, for an engine that gives a fixture `backend`.

    An engine whose data outlives its backend overrides `reopened` with a fixture that gives a
    function from nothing to another backend on the same data.
    """

    MACHINE_EXAMPLES = 25

    @pytest.fixture
    def reopened(self) -> Callable[[], StorageBackend] | None:
        return None

    @pytest.fixture
    def engine(self, backend: StorageBackend, reopened: Callable[[], StorageBackend] | None) -> Engine:
        return Engine(type(backend).__name__, backend, reopened)

    def test_queue_machine(self, engine: Engine) -> None:
        run_machine(QueueMachine, engine, count=3 * self.MACHINE_EXAMPLES)

    def test_session_machine(self, engine: Engine) -> None:
        run_machine(SessionMachine, engine, count=self.MACHINE_EXAMPLES)

    def test_approval_machine(self, engine: Engine) -> None:
        run_machine(ApprovalMachine, engine, count=self.MACHINE_EXAMPLES)

    def test_idempotency_machine(self, engine: Engine) -> None:
        run_machine(IdempotencyMachine, engine, count=self.MACHINE_EXAMPLES)

    def test_lock_machine(self, engine: Engine) -> None:
        run_machine(LockMachine, engine, count=self.MACHINE_EXAMPLES)

    def test_log_machine(self, engine: Engine) -> None:
        run_machine(LogMachine, engine, count=self.MACHINE_EXAMPLES)

    def test_all_together(self, engine: Engine) -> None:
        run_machine(StorageMachine, engine, count=self.MACHINE_EXAMPLES, steps=50)
