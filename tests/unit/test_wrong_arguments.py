"""Whatever is passed to a public method: an error of the vocabulary, or success, and never another error."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import Enum
from typing import Any

import pytest

from assistly.storage import (
    Approval,
    AsyncStorage,
    ClaimState,
    ConfigurationError,
    Event,
    ExponentialRetry,
    Failed,
    IdempotencyClaim,
    InvalidValue,
    Job,
    MemoryBackend,
    NewEvent,
    NewJob,
    Posted,
    RetentionPolicy,
    RetryPolicy,
    Session,
    Snoozed,
    Storage,
    StorageClosed,
    StorageError,
    WorkerLock,
    open_async_storage,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STORES = (
    "queue",
    "sessions",
    "approvals",
    "idempotency",
    "nonces",
    "metrics",
    "lock",
    "events",
    "snapshots",
    "platforms",
    "schedules",
)


class OwnError(Exception):
    """Raised by a caller's own function or iterator: it is passed on."""


class BadZone(tzinfo):
    def __init__(self, offset: Any) -> None:
        self._offset = offset

    def utcoffset(self, _: Any) -> Any:
        return self._offset() if callable(self._offset) else self._offset

    def dst(self, _: Any) -> Any:
        return None

    def tzname(self, _: Any) -> Any:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


class Text(str):
    def __repr__(self) -> str:
        raise ZeroDivisionError

    def encode(self, *_: Any) -> Any:
        raise ZeroDivisionError


class Mapping(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise ZeroDivisionError


class Number(int):
    def __le__(self, _: Any) -> Any:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


class Span(timedelta):
    def __lt__(self, _: Any) -> Any:
        raise ZeroDivisionError

    def __radd__(self, _: Any) -> Any:
        raise ZeroDivisionError


class Moment(datetime):
    def astimezone(self, *_: Any) -> Any:
        return "noon"


class Unprintable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


class Kind(Enum):
    ONE = 1


def fails_midway() -> Iterator[Any]:
    yield NewJob("x", "a")
    raise OwnError


def raising() -> Any:
    raise ZeroDivisionError


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def circular() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


async def coroutine(*_: Any) -> None:
    pass


def claimed_job() -> Job:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        storage.queue.schedule("x", "a")
        return storage.queue.claim_due(worker_id="w")[0]


JOB = claimed_job()


def job_with(**fields: Any) -> Any:
    return replace(JOB, **fields)


NASTY: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "zero": lambda: 0,
    "minus one": lambda: -1,
    "one": lambda: 1,
    "64 bits": lambda: 2**63,
    "huge": lambda: 10**5000,
    "minus huge": lambda: -(10**5000),
    "float": lambda: 1.5,
    "nan": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "complex": lambda: 1j,
    "empty": lambda: "",
    "name": lambda: "x",
    "NUL": lambda: "a\0b",
    "surrogate": lambda: "\ud800",
    "long": lambda: "x" * 2_000_000,
    "bytes": lambda: b"x",
    "bytearray": lambda: bytearray(b"x"),
    "str subclass": lambda: Text("x"),
    "int subclass": lambda: Number(1),
    "enum": lambda: Kind.ONE,
    "list": lambda: [1],
    "tuple": lambda: ("a", 1),
    "tuples": lambda: [("a",), (1, 2, 3, 4)],
    "set": lambda: {1},
    "dict": lambda: {1: 2},
    "dict subclass": lambda: Mapping(a=1),
    "circular": circular,
    "deep": lambda: nested(10_000),
    "object": object,
    "class": lambda: dict,
    "unprintable": Unprintable,
    "list of unprintables": lambda: [Unprintable()],
    "function": lambda: lambda *_: 1,
    "generator": lambda: (number for number in [object()]),
    "iterator that raises": fails_midway,
    "coroutine function": lambda: coroutine,
    "naive": lambda: datetime(2026, 1, 1),  # noqa: DTZ001
    "first": lambda: datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    "last": lambda: datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
    "zone of None": lambda: datetime(2026, 1, 1, tzinfo=BadZone(None)),
    "zone that raises": lambda: datetime(2026, 1, 1, tzinfo=BadZone(raising)),
    "zone of text": lambda: datetime(2026, 1, 1, tzinfo=BadZone("+1")),
    "zone of days": lambda: datetime(2026, 1, 1, tzinfo=BadZone(timedelta(days=2))),
    "datetime subclass": lambda: Moment(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    "aware": lambda: NOW,
    "least timedelta": lambda: timedelta.min,
    "most timedelta": lambda: timedelta.max,
    "zero timedelta": lambda: timedelta(0),
    "timedelta subclass": lambda: Span(seconds=1),
    "job with a text as id": lambda: job_with(id="1"),
    "job with a huge id": lambda: job_with(id=2**70),
    "job without a claim": lambda: job_with(claim=None),
    "job with a text of retries": lambda: job_with(retries="1"),
    "jobs": lambda: [job_with(), job_with(claim=-1), None],
    "new jobs": lambda: [NewJob("x", "a"), NewJob("x", "a", scheduled_at="noon")],  # type: ignore[arg-type]
    "new job of nothing": lambda: [NewJob(None, None, None, 1, 1, 1, 1, 1)],  # type: ignore[arg-type]
    "outcomes": lambda: [Posted(job_with(id="1")), Failed(job_with(), 1), Snoozed(None, None)],  # type: ignore[arg-type]
    "outcome of nothing": lambda: [Snoozed(job_with(), None)],  # type: ignore[arg-type]
    "session": lambda: Session(None, 1, 1, NOW),  # type: ignore[arg-type]
    "approval": lambda: Approval("a", "b", 1, None, None, "x"),  # type: ignore[arg-type]
    "event": lambda: Event("a", "b", 1, None),  # type: ignore[arg-type]
    "new events": lambda: [NewEvent("a", 1), NewEvent(None, object())],  # type: ignore[arg-type]
    "claim": lambda: IdempotencyClaim(None, ClaimState.ACQUIRED, None, None, None, "x"),  # type: ignore[arg-type]
    "lock": lambda: WorkerLock(None, 1, "x", NOW, NOW),  # type: ignore[arg-type]
    "lock of another fence": lambda: WorkerLock("worker", "me", 2**70, NOW, NOW),
}


def good_arguments(storage: Storage) -> dict[str, Any]:
    """A good value for each parameter that has no default, by its name."""
    storage.queue.schedule("x", "a")
    return {
        "platform": "x",
        "content": "a",
        "scheduled_at": NOW,
        "jobs": [],
        "id": 1,
        "min_gap": timedelta(1),
        "worker_id": "w",
        "lease": timedelta(1),
        "job": storage.queue.claim_due(worker_id="w")[0],
        "error": "oops",
        "until": NOW,
        "edges": [NOW, NOW + timedelta(hours=1)],
        "outcomes": [],
        "timeout": 0,
        "user_id": "u",
        "data": 1,
        "change": lambda _: 1,
        "payload": 1,
        "status": "posted",
        "key": "k",
        "claim": storage.idempotency.claim("claimed"),
        "value": 1,
        "results": [],
        "function": lambda: 1,
        "posted": True,
        "nonce": "n",
        "nonces": [],
        "name": "n",
        "milliseconds": 1,
        "owner_id": "o",
        "lock": storage.lock.acquire("me"),
        "event_type": "t",
        "events": [],
        "kind": "k",
        "count": 5,
        "most": 1,
        "tokens": 1,
        "connection": None,
    }


def methods() -> list[tuple[str, str, str]]:
    """The store (empty for the storage itself), the method and the parameter of each case."""
    found = []
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        for store in ("", *STORES):
            owner = getattr(storage, store) if store else storage
            for name, method in inspect.getmembers(type(owner), inspect.isfunction):
                if not name.startswith("_"):
                    found += [(store, name, p) for p in inspect.signature(method).parameters if p != "self"]
    return found


def call(storage: Any, good: dict[str, Any], case: tuple[str, str, str], value: Any) -> Any:
    store, name, parameter = case
    method = getattr(getattr(storage, store) if store else storage, name)
    arguments, keywords = [], {}
    for other in inspect.signature(method).parameters.values():
        if other.name != parameter and other.default is not inspect.Parameter.empty:
            continue
        given = value if other.name == parameter else argument(good, case, other.name)
        if other.kind is inspect.Parameter.KEYWORD_ONLY:
            keywords[other.name] = given
        else:
            arguments.append(given)
    if (store, name) == ("schedules", "put") and parameter != "cron":
        keywords.setdefault("every", timedelta(hours=1))
    return method(*arguments, **keywords)


def argument(good: dict[str, Any], case: tuple[str, str, str], name: str) -> Any:
    store, method, _ = case
    if name == "id" and (store == "schedules" or method in ("add", "decide")):
        return "an approval or a schedule"
    return good[name]


def written(storage: Storage) -> list[Any]:
    return [
        storage.queue.list(),
        storage.sessions.list(),
        storage.approvals.list(),
        storage.events.list(),
        storage.snapshots.list(),
        storage.platforms.list(),
        storage.schedules.list(),
        storage.metrics.read(),
        storage.lock.current(),
    ]


CASES = methods()


class Trial:
    """Calls that must fail share a storage; after one that succeeds there is a new one."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.storage = Storage(MemoryBackend(), auto_prune=False, clock=lambda: NOW)
        self.good = good_arguments(self.storage)
        self.before = written(self.storage)

    def check(self, label: str, error: Exception) -> None:
        assert isinstance(error, StorageError | OwnError), f"{label}: {error!r}"
        assert "\n" not in str(error)
        assert len(str(error)) < 600
        assert written(self.storage) == self.before, label


def is_skipped(case: tuple[str, str, str], label: str) -> bool:
    """Whether the call would sleep, or the error is that of the caller's own function."""
    sleeps = case[1] == "wait" and label in ("one", "float", "most timedelta", "timedelta subclass")
    return sleeps or (case[2] in ("change", "function") and label == "class")


@pytest.mark.parametrize("case", CASES, ids=".".join)
def test_no_other_error_comes_out(case: tuple[str, str, str]) -> None:
    trial = Trial()
    for label, make in NASTY.items():
        if is_skipped(case, label):
            continue
        try:
            call(trial.storage, trial.good, case, make())
        except Exception as error:  # noqa: BLE001 - checked here
            trial.check(label, error)
        else:
            trial.renew()


@pytest.mark.parametrize("store", ["", *STORES])
def test_no_other_error_comes_out_of_await(store: str) -> None:
    async def main() -> None:
        trial = Trial()
        wrapped = AsyncStorage(trial.storage)
        for case in [case for case in CASES if case[0] == store]:
            for label, make in NASTY.items():
                if is_skipped(case, label):
                    continue
                try:
                    await call(wrapped, trial.good, case, make())
                except Exception as error:  # noqa: BLE001 - checked here
                    trial.check(label, error)
                else:
                    trial.renew()
                    wrapped = AsyncStorage(trial.storage)

    asyncio.run(main())


@pytest.mark.parametrize("name", ["queue", "sessions", "prune", "transaction", "close"])
def test_a_transaction_that_was_not_entered(name: str) -> None:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        transaction: Any = storage.transaction()
        with pytest.raises(StorageClosed, match=r"write `with storage\.transaction\(\) as tx:`"):
            getattr(transaction, name)
        with transaction as tx:
            tx.nonces.register("n")
        assert not hasattr(transaction, "no_such_name")
        awaited: Any = AsyncStorage(storage).transaction()
        with pytest.raises(StorageClosed, match=r"write `async with storage\.transaction"):
            getattr(awaited, name)
        assert not hasattr(awaited, "no_such_name")
        opening: Any = open_async_storage(engine="memory")
        with pytest.raises(InvalidValue, match="write `async with open_async_storage"):
            getattr(opening, name)
        assert not hasattr(opening, "no_such_name")


def test_a_coroutine_is_closed() -> None:
    with Storage(MemoryBackend(), auto_prune=False) as storage, warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidValue, match="change returned a coroutine"):
            storage.sessions.update("u", lambda _: coroutine())  # type: ignore[arg-type, return-value]
        with pytest.raises(InvalidValue, match="function returned a coroutine"):
            storage.idempotency.run_once("k", coroutine)  # type: ignore[type-var, unused-coroutine]
        assert storage.sessions.get("u") is None


@pytest.mark.parametrize(
    "keywords",
    [
        {"retry": 3},
        {"retention": timedelta(1)},
        {"lock_ttl": 45},
        {"lock_ttl": timedelta(0)},
        {"auto_prune": 1},
        {"worker_maintains": None},
    ],
)
def test_the_constructor(keywords: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(keywords))):
        Storage(MemoryBackend(), **keywords)


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        (RetryPolicy, {"max_retries": 0}),
        (RetryPolicy, {"max_retries": "3"}),
        (RetryPolicy, {"delay": 5}),
        (RetryPolicy, {"delay": -timedelta(1)}),
        (ExponentialRetry, {"max_retries": None}),
        (ExponentialRetry, {"longest": 5}),
        (ExponentialRetry, {"factor": "2"}),
        (ExponentialRetry, {"jitter": None}),
        (RetentionPolicy, {"approvals_age": None}),
        (RetentionPolicy, {"nonces_age": 1}),
        (RetentionPolicy, {"posted_age": -timedelta(1)}),
        (RetentionPolicy, {"approvals_cap": -1}),
        (RetentionPolicy, {"idempotency_cap": 1.5}),
    ],
)
def test_the_policies(policy: Callable[..., Any], fields: dict[str, Any]) -> None:
    with pytest.raises((InvalidValue, ConfigurationError), match=next(iter(fields))):
        policy(**fields)


def test_a_policy_that_answers_nonsense() -> None:
    class Nonsense(RetryPolicy):
        def delay_after(self, retries: int) -> Any:
            return retries

    with Storage(MemoryBackend(), retry=Nonsense(), auto_prune=False) as storage:
        storage.queue.schedule("x", "a")
        (job,) = storage.queue.claim_due(worker_id="w")
        with pytest.raises(InvalidValue, match="delay_after"):
            storage.queue.mark_failed(job, "oops")
        assert storage.queue.get(job.id) == job


@pytest.mark.parametrize("engine", [None, MemoryBackend, "memory"])
def test_what_is_no_engine(engine: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"an engine such as MemoryBackend\(\)"):
        Storage(engine)
