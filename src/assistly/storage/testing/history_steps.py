"""Splits recorded calls into steps, each on one record, that the model can repeat.

The steps of the queue are in `history_queue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..errors import (
    Conflict,
    IdempotencyMismatch,
    OutcomeUnknown,
    StorageError,
)
from ..records import (
    Approval,
    ClaimState,
    IdempotencyClaim,
    WorkerLock,
)
from .history import UNANSWERED, RecordedCall
from .model import Model
from .model_state import ModelMutex


@dataclass(frozen=True)
class Step:
    """What one call did to one record: `fits` makes it on the model, and compares the answer."""

    record: tuple[str, Any]
    invoked: int
    returned: int
    fits: Callable[[Model], bool]
    is_optional: bool = False
    """Whether it may have had no effect, since no answer came or the answer does not say."""


def steps_of_records(call: RecordedCall) -> Iterator[Step]:
    """The steps of a call that concerns one record of another store than the queue; others have none."""
    make = _MAKERS.get(call.method)
    return iter(()) if make is None else make(call)


def step(call: RecordedCall, kind: str, key: Any, fits: Callable[[Model], bool]) -> Step:
    unknown = not call.is_answered or isinstance(call.answer, OutcomeUnknown)

    def at_its_time(model: Model) -> bool:
        model.state.now = lambda: call.now
        return fits(model)

    if unknown:
        return Step((kind, key), call.invoked, UNANSWERED, lambda model: at_its_time(model) or True, True)
    return Step((kind, key), call.invoked, call.returned, at_its_time)


def answer_of(operation: Callable[[], Any]) -> Any:
    try:
        return operation()
    except StorageError as error:
        return error


def same_answers(answer: Any, expected: Any) -> bool:
    """Whether two answers are the same, but for numbers that an engine chooses, and texts of errors."""
    if isinstance(answer, StorageError) or isinstance(expected, StorageError):
        return type(answer) is type(expected)
    if isinstance(answer, Approval) and isinstance(expected, Approval):
        return replace(answer, sequence=0) == replace(expected, sequence=0)
    if isinstance(answer, IdempotencyClaim) and isinstance(expected, IdempotencyClaim):
        return replace(answer, token=0) == replace(expected, token=0)
    equal: bool = answer == expected
    return equal


def argument(call: RecordedCall, place: int, name: str, default: Any = None) -> Any:
    return call.args[place] if len(call.args) > place else call.kwargs.get(name, default)


def _plain(call: RecordedCall, kind: str) -> Iterator[Step]:
    """The model has a method of the same name, and the first argument is the record's key."""
    _, _, name = call.method.partition(".")
    kwargs = {key: value for key, value in call.kwargs.items() if key != "now"}

    def fits(model: Model) -> bool:
        method = getattr(getattr(model, kind), name)
        return same_answers(call.answer, answer_of(lambda: method(*call.args, **kwargs)))

    yield step(call, kind, call.args[0], fits)


def _registered(call: RecordedCall) -> Iterator[Step]:
    timestamp = argument(call, 1, "timestamp")

    def fits(model: Model) -> bool:
        return call.answer is model.nonces.register(call.args[0], timestamp)

    yield step(call, "nonces", call.args[0], fits)


def _updated(call: RecordedCall) -> Iterator[Step]:
    user_id, seen = call.args
    default = call.kwargs.get("default")

    def fits(model: Model) -> bool:
        current = model.sessions.get(user_id)
        before = current.data if current else default
        if isinstance(call.answer, StorageError):
            return True
        return bool(before == seen["before"]) and same_answers(
            call.answer, model.sessions.put(user_id, seen["after"])
        )

    if "after" in seen:
        yield step(call, "sessions", user_id, fits)


def _claimed_key(call: RecordedCall) -> Iterator[Step]:
    key = call.args[0]
    kwargs = {name: value for name, value in call.kwargs.items() if name != "now"}

    def fits(model: Model) -> bool:
        expected = answer_of(lambda: model.idempotency.claim(key, **kwargs))
        if isinstance(expected, IdempotencyClaim) and expected.state is ClaimState.ACQUIRED:
            token = call.answer.token if isinstance(call.answer, IdempotencyClaim) else -2
            for row in model.state.tables.keys:
                row.token = token
        return same_answers(call.answer, expected)

    yield step(call, "idempotency", key, fits)


def _completed_key(call: RecordedCall) -> Iterator[Step]:
    claim = call.args[0]
    name = call.method.partition(".")[2]

    def fits(model: Model) -> bool:
        method = getattr(model.idempotency, name)
        return same_answers(call.answer, answer_of(lambda: method(*call.args)))

    yield step(call, "idempotency", claim.key, fits)


def _ran_once(call: RecordedCall) -> Iterator[Step]:
    """Claiming the key, and completing it, are two steps."""
    key, times = call.args
    lease = {"lease": call.kwargs["lease"]} if "lease" in call.kwargs else {}
    began, ended = times.get("began"), times.get("ended")

    def claims(state: ClaimState) -> Callable[[Model], bool]:
        def fits(model: Model) -> bool:
            claim = model.idempotency.claim(key, **lease)
            if state is ClaimState.ACQUIRED and claim.state is state:
                for row in model.state.tables.keys:
                    row.token = call.invoked
            return claim.state is state and (state is not ClaimState.COMPLETED or claim.value == call.answer)

        return fits

    def completes(model: Model) -> bool:
        (row,) = model.state.tables.keys
        if row.completed or row.token != call.invoked:
            return False
        row.completed, row.value, row.saved_at, row.lease_until = True, call.answer, call.now, None
        return True

    if began is None:
        if isinstance(call.answer, Conflict) and not isinstance(call.answer, IdempotencyMismatch):
            yield step(call, "idempotency", key, claims(ClaimState.IN_PROGRESS))
        elif call.is_answered and not isinstance(call.answer, Exception):
            yield step(call, "idempotency", key, claims(ClaimState.COMPLETED))
        return
    yield replace(step(call, "idempotency", key, claims(ClaimState.ACQUIRED)), returned=began)
    if ended is not None and not isinstance(call.answer, Exception):
        yield replace(step(call, "idempotency", key, completes), invoked=ended)


def _locked(call: RecordedCall) -> Iterator[Step]:
    """Fences of the engine may have begun before the history did: the first one is taken as it comes."""
    name = call.method.partition(".")[2]
    kwargs = {key: value for key, value in call.kwargs.items() if key != "now"}
    first = call.args[0] if call.args else None
    lock_name = first.name if isinstance(first, WorkerLock) else kwargs.get("name", "worker")

    def fits(model: Model) -> bool:
        locks = model.state.tables.locks
        if lock_name not in locks and isinstance(call.answer, WorkerLock):
            locks[lock_name] = ModelMutex(call.answer.fence - 1, None)
        method = getattr(model.lock, name)
        return same_answers(call.answer, answer_of(lambda: method(*call.args, **kwargs)))

    if name != "acquire" or "ttl" in kwargs:
        yield step(call, "lock", lock_name, fits)


def _plain_of(kind: str) -> Callable[[RecordedCall], Iterator[Step]]:
    return lambda call: _plain(call, kind)


_MAKERS: dict[str, Callable[[RecordedCall], Iterator[Step]]] = {
    "nonces.register": _registered,
    "nonces.seen": _plain_of("nonces"),
    "approvals.add": _plain_of("approvals"),
    "approvals.get": _plain_of("approvals"),
    "approvals.decide": _plain_of("approvals"),
    "sessions.get": _plain_of("sessions"),
    "sessions.put": _plain_of("sessions"),
    "sessions.delete": _plain_of("sessions"),
    "sessions.update": _updated,
    "idempotency.claim": _claimed_key,
    "idempotency.complete": _completed_key,
    "idempotency.abandon": _completed_key,
    "idempotency.put": _plain_of("idempotency"),
    "idempotency.get": _plain_of("idempotency"),
    "idempotency.run_once": _ran_once,
    "lock.acquire": _locked,
    "lock.renew": _locked,
    "lock.release": _locked,
}
