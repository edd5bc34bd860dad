"""The state of the model: its tables, clock and ids, and copies of values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import TypeVar

from ..records import Approval, Event, Job, Json, Session, Snapshot, WorkerLock

T = TypeVar("T")


def canonical(value: Json) -> str:
    """Equal for equal JSON only: 1, 1.0 and true are three values."""
    return json.dumps(value, sort_keys=True)


def compared(metadata: Mapping[str, Json]) -> str:
    """The metadata that jobs with one key must share."""
    return canonical({key: value for key, value in metadata.items() if key != "assistly.trace"})


def copied(value: T) -> T:
    return deepcopy(value)


@dataclass
class ModelKey:
    """An idempotency key, finished or not."""

    key: str
    saved_at: datetime
    fingerprint: str | None
    token: int
    lease_until: datetime | None
    completed: bool = False
    value: Json = None


@dataclass
class ModelMutex:
    """A lock that was held at least once."""

    fence: int
    holder: WorkerLock | None


@dataclass
class ModelBucket:
    """The limit of a platform, and how many tokens there were at a time, whole or not. None: no limit."""

    limit: tuple[int, timedelta] | None
    set_at: datetime
    tokens: Fraction = Fraction(0)
    at: datetime | None = None


@dataclass
class ModelPause:
    """What was said at the pause of a platform. When it ends is in `ModelTables.pauses`."""

    reason: str | None
    by: str | None
    set_at: datetime


@dataclass
class ModelTables:
    """Everything that is stored, and that a rollback brings back."""

    jobs: dict[int, Job] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    approvals: list[Approval] = field(default_factory=list)
    keys: list[ModelKey] = field(default_factory=list)
    nonces: dict[str, int] = field(default_factory=dict)
    locks: dict[str, ModelMutex] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    pauses: dict[str, datetime | None] = field(default_factory=dict)
    """When the pauses of platforms end; None if somebody has to end it."""
    pause_notes: dict[str, ModelPause] = field(default_factory=dict)
    buckets: dict[str, ModelBucket] = field(default_factory=dict)
    pruned_at: datetime | None = None


class ModelState:
    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.now = clock
        self.tables = ModelTables()
        self._numbers = 0

    def number(self) -> int:
        """A new id: one sequence for everything, which no rollback turns back."""
        self._numbers += 1
        return self._numbers

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Undo what was stored inside if it ends in an exception."""
        before = copied(self.tables)
        try:
            yield
        except BaseException:
            self.tables = before
            raise
