"""Bugs planted in the schedules, which the machine of schedules has to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from assistly.storage import MemoryBackend
from assistly.storage.stores import recurring, schedules
from assistly.storage.testing.fixtures import examples
from assistly.storage.testing.machine_schedules import ScheduleMachine


def _finds_jobs_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    original = schedules._reconciled

    def reconciled(backend: Any, plan: Any, *args: Any) -> Any:
        keys = {slot: backend.jobs.by_key(schedules._key(plan.schedule.id, slot)) for slot in plan.slots}
        slots = {slot: None if job is None else job.id for slot, job in keys.items()}
        return original(backend, replace(plan, slots=slots), *args)

    monkeypatch.setattr(schedules, "_reconciled", reconciled)


def _makes_jobs_while_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    original = recurring.changed_plan

    def changed_plan(plan: Any, schedule: Any, now: datetime) -> Any:
        changed = original(plan, replace(schedule, enabled=True), now)
        return replace(changed, schedule=replace(changed.schedule, enabled=schedule.enabled))

    monkeypatch.setattr(schedules, "changed_plan", changed_plan)


@pytest.mark.parametrize("plant", [_finds_jobs_by_key, _makes_jobs_while_disabled])
def test_the_machine_finds_it(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            lambda: ScheduleMachine(MemoryBackend()),  # type: ignore[arg-type]
            settings=settings(examples(400), phases=[Phase.generate]),
        )
