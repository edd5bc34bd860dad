"""State machines that drive an engine and the model side by side.

    class TestMine(MachineContract):
        @pytest.fixture
        def backend(self): ...

To run several engines in lock-step, give a machine more than one `Engine`.
"""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from ..engine.protocol import StorageBackend
from .engine_spec import EngineSpec
from .fixtures import Contract, examples, needs_durability
from .machine_queue import QueueMachine
from .machine_records import (
    ApprovalMachine,
    IdempotencyMachine,
    LockMachine,
    LogMachine,
    PlatformMachine,
    SessionMachine,
)
from .machine_schedules import ScheduleMachine
from .machine_sides import Engine, LockstepMachine

__all__ = [
    "ApprovalMachine",
    "Engine",
    "IdempotencyMachine",
    "LockMachine",
    "LockstepMachine",
    "LogMachine",
    "MachineContract",
    "PausedQueueMachine",
    "PlatformMachine",
    "QueueMachine",
    "ScheduleMachine",
    "SessionMachine",
    "StorageMachine",
    "run_machine",
]


class PausedQueueMachine(QueueMachine, PlatformMachine):
    """Jobs of platforms that are paused now and then."""


class StorageMachine(
    PausedQueueMachine, SessionMachine, ApprovalMachine, IdempotencyMachine, LockMachine, LogMachine
):
    """All kinds together, which is what transactions and prunes work on."""


def run_machine(machine: type[LockstepMachine], *engines: Engine, settings: hypothesis.settings) -> None:
    """Run random programs; the smallest one that fails is printed."""
    run_state_machine_as_test(lambda: machine(*engines), settings=settings)  # type: ignore[arg-type]


class MachineContract(Contract):
    """The machines as tests, for an engine that gives a fixture `backend`.

    They open a durable engine again now and then, by its `engine_spec`.
    """

    MACHINE_EXAMPLES = 25

    @pytest.fixture
    def engine(self, backend: StorageBackend, maybe_spec: EngineSpec | None) -> Engine:
        reopened = needs_durability(backend, maybe_spec).open if backend.durable else None
        return Engine(type(backend).__name__, backend, reopened)

    def test_queue_machine(self, engine: Engine) -> None:
        run_machine(QueueMachine, engine, settings=examples(3 * self.MACHINE_EXAMPLES))

    def test_session_machine(self, engine: Engine) -> None:
        run_machine(SessionMachine, engine, settings=examples(self.MACHINE_EXAMPLES))

    def test_approval_machine(self, engine: Engine) -> None:
        run_machine(ApprovalMachine, engine, settings=examples(self.MACHINE_EXAMPLES))

    def test_idempotency_machine(self, engine: Engine) -> None:
        run_machine(IdempotencyMachine, engine, settings=examples(self.MACHINE_EXAMPLES))

    def test_lock_machine(self, engine: Engine) -> None:
        run_machine(LockMachine, engine, settings=examples(self.MACHINE_EXAMPLES))

    def test_log_machine(self, engine: Engine) -> None:
        run_machine(LogMachine, engine, settings=examples(self.MACHINE_EXAMPLES))

    def test_platform_machine(self, engine: Engine) -> None:
        run_machine(PlatformMachine, engine, settings=examples(self.MACHINE_EXAMPLES))

    def test_paused_queue_machine(self, engine: Engine) -> None:
        run_machine(PausedQueueMachine, engine, settings=examples(self.MACHINE_EXAMPLES))

    def test_schedule_machine(self, backend: StorageBackend) -> None:
        run_state_machine_as_test(
            lambda: ScheduleMachine(backend),  # type: ignore[arg-type]
            settings=examples(self.MACHINE_EXAMPLES),
        )

    def test_all_together(self, engine: Engine) -> None:
        run_machine(StorageMachine, engine, settings=examples(self.MACHINE_EXAMPLES, steps=50))
