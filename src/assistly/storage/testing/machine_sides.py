"""The base of the state machines: the same calls on a model and on one or more engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ..engine.protocol import StorageBackend
from ..errors import StorageClosed, StorageError, TransactionOpen
from ..records import Approval, Event, IdempotencyClaim, Job, JobStatus, Json, Settled, WorkerLock
from ..retention import RetentionPolicy
from ..retry import RetryPolicy
from ..storage import Storage
from .fixtures import DAY, HOUR, LEASE, MINUTE, SECOND, TICK, FakeClock, empty, fresh_name, open_for_test
from .model import EPOCH, Model, ModelRetention
from .model_counts import is_missed, is_unknown
from .model_state import ModelTables

RETRY = 3 * MINUTE
MAX_RETRIES = 2
KEY_LEASE = MINUTE
LOCK_TTL = 45 * SECOND
NONE = timedelta(0)

RETENTION = ModelRetention(
    approvals_age=2 * DAY,
    approvals_cap=3,
    idempotency_age=DAY,
    idempotency_cap=3,
    nonces_age=DAY,
    posted_age=DAY,
    events_age=2 * DAY,
    sessions_age=2 * DAY,
)
SETTINGS: dict[str, Any] = {
    "retention": RetentionPolicy(**asdict(RETENTION)),
    "retry": RetryPolicy(max_retries=MAX_RETRIES, delay=RETRY),
}

picks = st.integers(0, 30)
steps = st.sampled_from([NONE, NONE, LOCK_TTL, KEY_LEASE, RETRY, LEASE, HOUR, DAY, 2 * DAY, -MINUTE])
jitters = st.sampled_from([NONE, NONE, TICK, -TICK])
values: st.SearchStrategy[Json] = st.sampled_from(
    [None, False, 0, 0.0, 1, 1.0, True, "", "a", [], {}, {"a": 1}, {"a": [1, 1.0, None]}]
)
limits = st.sampled_from([1, 2, 3, 1000])

_NUMBER: dict[type, str] = {Job: "id", Event: "id", WorkerLock: "fence"}
Key = tuple[type, str, int]
"""Kind of record, name of the lock (each lock has fences of its own), number."""

_OWN: dict[type, str] = {Approval: "sequence", IdempotencyClaim: "token"}
_REASONS = ("lease expired: ", "outcome unknown: ", "missed: ")


@dataclass(frozen=True)
class Engine:
    """An engine under test. `reopened` gives another backend on the same data, which the machine closes."""

    name: str
    backend: StorageBackend
    reopened: Callable[[], StorageBackend] | None = None


class Refused(Exception):
    """Raised by the functions that the machines hand to an engine."""


class Undone(Exception):
    """Raised to roll a transaction back."""


def _with_causes(error: BaseException | None) -> str:
    """What an error says, and what each of its causes says, a line for each."""
    lines: list[str] = []
    while error is not None:
        lines.append(f"\n{'from' if lines else 'it raised'} {type(error).__name__}: {error}")
        error = error.__cause__
    return "".join(lines)


def _key(record: Any) -> Key:
    kind = type(record)
    return kind, record.name if kind is WorkerLock else "", getattr(record, _NUMBER[kind])


class Side:
    """The model or an engine. `numbers` maps ids, fences and tokens of an engine to those of the model."""

    def __init__(self, index: int, name: str, api: Any) -> None:
        self.index = index
        self.name = name
        self.root = api
        self.apis: list[Any] = [api]
        self.transactions: list[AbstractContextManager[Any]] = []
        self.numbers: dict[Key, int] = {}

    def answer(self, question: Question) -> Any:
        try:
            return question(self.apis[-1], self)
        except (StorageError, Refused) as error:
            return error

    def begin(self) -> None:
        transaction = self.apis[-1].transaction()
        self.apis.append(transaction.__enter__())
        self.transactions.append(transaction)

    def end(self, *, commit: bool) -> None:
        api, transaction = self.apis.pop(), self.transactions.pop()
        error = None if commit else Undone()
        with suppress(Undone):
            if not transaction.__exit__(None if commit else Undone, error, None) and error is not None:
                raise error
        if not isinstance(api, Model):
            assert isinstance(self._used(api), StorageClosed), (
                f"{self.name}: an ended transaction still works"
            )

    def refuses_outside(self) -> None:
        """Assert that, while a transaction is open, the storages around it raise TransactionOpen."""
        for api in self.apis[:-1]:
            if not isinstance(api, Model):
                assert isinstance(self._used(api), TransactionOpen), (
                    f"{self.name}: a storage can be called while a transaction on it is open"
                )

    def _used(self, api: Any) -> Any:
        try:
            return api.queue.counts()
        except StorageError as error:
            return error

    def learn(self, model: Any, own: Any) -> None:
        """Note that these two records are the same one, under the number that each side gave it."""
        if isinstance(model, list) and isinstance(own, list):
            for one, other in zip(model, own, strict=False):
                self.learn(one, other)
        elif isinstance(model, StorageError) and isinstance(own, StorageError):
            # A conflict inside a batch carries a job that went back with the batch.
            self.learn([*model.args], [*own.args])
        elif type(model) is type(own) and type(own) in _NUMBER:
            key, common = _key(own), getattr(model, _NUMBER[type(own)])
            known = self.numbers.setdefault(key, common)
            assert known == common, f"{self.name} says\n  {key!r}\nof two that are not the same"

    def number(self, key: Key) -> int | str:
        return self.numbers.get(key, f"an unknown number, {key[2]}")

    def common(self, value: Any) -> Any:
        """An answer in a form that all sides share: with the numbers of the model, and the types of JSON."""
        if isinstance(value, Settled):
            return self.common(value.jobs), [self.number((Job, "", id)) for id in value.lost]
        if is_dataclass(value) and not isinstance(value, type):
            return self._common_record(value)
        if isinstance(value, StorageError | Refused):
            return type(value).__name__, self.common(value.args[1:])
        if isinstance(value, dict):
            return {key: self.common(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.common(part) for part in value]
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, str):
            return next((reason for reason in _REASONS if value.startswith(reason)), value)
        return type(value).__name__, value

    def _common_record(self, record: Any) -> dict[str, Any]:
        kind = type(record)
        parts = {part.name: getattr(record, part.name) for part in fields(record)}
        parts.pop(_OWN.get(kind, ""), None)
        told = {name: self.common(part) for name, part in parts.items()}
        if kind in _NUMBER:
            told[_NUMBER[kind]] = self.number(_key(record))
        if kind is Job:
            told["outcome_unknown"], told["missed"] = self.properties(record)
        return told

    def properties(self, job: Job) -> tuple[bool, bool]:
        return job.outcome_unknown, job.missed


class ModelSide(Side):
    def number(self, key: Key) -> int | str:
        return key[2]

    def properties(self, job: Job) -> tuple[bool, bool]:
        return is_unknown(job), is_missed(job)


def happenings(tables: ModelTables) -> Iterator[datetime]:
    """The times at which leases run out, jobs fall due or become late, and records become old."""
    for job in tables.jobs.values():
        if job.lease_until:
            yield job.lease_until
        elif job.posted_at:
            yield job.posted_at + DAY
        elif job.status not in (JobStatus.DEAD_LETTER, JobStatus.CANCELLED):
            yield job.due_at
            yield job.scheduled_at + (job.max_lateness or NONE)
    for key in tables.keys:
        yield key.lease_until or key.saved_at + DAY
    for lock in tables.locks.values():
        if lock.holder:
            yield lock.holder.expires_at
    for approval in tables.approvals:
        yield approval.created_at + 2 * DAY
    for event in tables.events:
        yield event.created_at + 2 * DAY
    for session in tables.sessions.values():
        yield session.updated_at + 2 * DAY
    for milliseconds in tables.nonces.values():
        yield EPOCH + timedelta(milliseconds=milliseconds) + DAY
    for until in tables.pauses.values():
        if until:
            yield until
    for bucket in tables.buckets.values():
        if bucket.limit and bucket.at:
            yield bucket.at + bucket.limit[1] / bucket.limit[0]
    if tables.pruned_at:
        yield tables.pruned_at + MINUTE


Question = Callable[[Any, Side], Any]
"""A call: its arguments are the `Model` or the `Storage`, and the side that it belongs to."""

Answers = list[Any]
"""One for each side, the model's first."""


class LockstepMachine(RuleBasedStateMachine):
    """Makes each call on every side, and compares the answers."""

    def __init__(self, *engines: Engine) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.engines = engines
        self.unique = fresh_name()
        model = Model(self.clock, retention=RETENTION, max_retries=MAX_RETRIES, retry_delay=RETRY)
        self.sides: list[Side] = [ModelSide(0, "model", model)]
        self.extra: list[Storage] = []
        for index, engine in enumerate(engines, 1):
            empty(engine.backend)
            self.sides.append(Side(index, engine.name, self._opened(engine.backend)))
        self.known: dict[str, list[Answers]] = {}
        self.before: list[tuple[dict[str, list[Answers]], list[dict[Key, int]]]] = []

    def _opened(self, backend: StorageBackend) -> Storage:
        return open_for_test(backend, self.clock, **SETTINGS)

    def at_age(self, age: timedelta | None) -> datetime | None:
        return None if age is None else self.clock() - age

    def ask(self, question: Question, *, new: bool = False) -> Answers:
        """Compare the answers of all sides. With `new`, they may hold records that are new."""
        answers = [side.answer(question) for side in self.sides]
        expected = self.sides[0].common(answers[0])
        for side, answer in zip(self.sides[1:], answers[1:], strict=True):
            numbers = dict(side.numbers)
            if new:
                side.learn(answers[0], answer)
            told = side.common(answer)
            if told != expected:
                said = f"{side.name} says\n  {told!r}\nand should say\n  {expected!r}"
                error = answer if isinstance(answer, Exception) else None
                raise AssertionError(f"{said}{_with_causes(error)}") from error
            if isinstance(answer, StorageError):
                side.numbers = numbers
        return answers

    def remember(self, kind: str, answers: Answers) -> None:
        """Keep what was returned, for later calls: a record of each side, or a list of them."""
        if isinstance(answers[0], list):
            for each in zip(*answers, strict=True):
                self.remember(kind, list(each))
        elif answers[0] is not None and not isinstance(answers[0], Exception):
            self.known.setdefault(kind, []).append(answers)

    def pick(self, kind: str, pick: int) -> Answers:
        """One of the kept ones, the newest for 0. There must be one."""
        known: list[Answers] = self.known[kind]
        return known[-1 - pick % len(known)]

    def knows(self, kind: str) -> bool:
        return bool(self.known.get(kind))

    def of(self, answers: Answers, side: Side) -> Any:
        return answers[side.index]

    @rule(step=steps, pick=st.none() | picks, jitter=jitters)
    def pass_time(self, step: timedelta, pick: int | None, jitter: timedelta) -> None:
        """Advance by a step; or, with a pick, to a time at which something happens by itself, or near it."""
        moments = sorted(
            moment for moment in happenings(self.sides[0].root.state.tables) if moment >= self.clock()
        )
        if pick is None or not moments:
            self.clock.advance(step + jitter)
        else:
            self.clock.time = moments[pick % len(moments)] + jitter

    @rule(deeper=st.booleans(), commit=st.sampled_from([True, True, False]))
    def transact(self, deeper: bool, commit: bool) -> None:
        """Begin a transaction or a savepoint, or end the innermost one."""
        if self.before and not (deeper and len(self.before) < 3):
            self.end(commit=commit)
            return
        self.before.append(
            (
                {kind: [*known] for kind, known in self.known.items()},
                [dict(side.numbers) for side in self.sides],
            )
        )
        for side in self.sides:
            side.begin()
            side.refuses_outside()

    def end(self, *, commit: bool) -> None:
        known, numbers = self.before.pop()
        for side in self.sides:
            side.end(commit=commit)
        if not commit:
            self.known = known
            for side, before in zip(self.sides, numbers, strict=True):
                side.numbers = before

    @precondition(lambda self: not self.before)
    @rule(force=st.booleans(), reopen=st.sampled_from([False, False, True]), pick=picks, jitter=jitters)
    def prune(self, force: bool, reopen: bool, pick: int, jitter: timedelta) -> None:
        if reopen:
            self.reopen()
        if not force:
            self.pass_time(NONE, pick, jitter)
        self.ask(lambda api, _: api.prune(force=force))

    def reopen(self) -> None:
        for side, engine in zip(self.sides[1:], self.engines, strict=True):
            side.root = self._opened(engine.reopened() if engine.reopened else engine.backend)
            side.apis = [side.root]
            if engine.reopened:
                self.extra.append(side.root)

    def teardown(self) -> None:
        while self.before:
            self.end(commit=False)
        for storage in self.extra:
            storage.close()
