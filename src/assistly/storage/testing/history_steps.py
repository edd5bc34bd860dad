"""Splits recorded calls into steps, each on one record, that the model can repeat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import (
    ClaimLost,
    Conflict,
    IdempotencyMismatch,
    OutcomeUnknown,
    StatusConflict,
    StorageError,
    StorageUnavailable,
)
from ..records import (
    Approval,
    Attempt,
    ClaimState,
    Failed,
    IdempotencyClaim,
    Job,
    Outcome,
    Posted,
    Released,
    Settled,
    Snoozed,
    Unknown,
    WorkerLock,
)
from .history import UNANSWERED, RecordedCall
from .model import EPOCH, Model
from .model_state import ModelMutex

_REASONS = ("lease expired: ", "outcome unknown: ", "missed: ")


@dataclass(frozen=True)
class Step:
    """What one call did to one record: `fits` makes it on the model, and compares the answer."""

    record: tuple[str, Any]
    invoked: int
    returned: int
    fits: Callable[[Model], bool]
    is_optional: bool = False
    """Whether it may have had no effect, since no answer came or the answer does not say."""


def steps_of(calls: Sequence[RecordedCall], *, loose: bool = False) -> Iterator[Step]:
    """The steps of all calls that concern single records; others, such as `counts`, have none."""
    for call in calls:
        if call.is_answered and isinstance(call.answer, StorageUnavailable):
            continue  # nothing was written
        make = _MAKERS.get(call.method)
        if make is not None:
            yield from make(call)
    yield from _Jobs(calls, loose=loose).steps()


def _step(call: RecordedCall, kind: str, key: Any, fits: Callable[[Model], bool]) -> Step:
    unknown = not call.is_answered or isinstance(call.answer, OutcomeUnknown)

    def at_its_time(model: Model) -> bool:
        model.state.now = lambda: call.now
        return fits(model)

    if unknown:
        return Step((kind, key), call.invoked, UNANSWERED, lambda model: at_its_time(model) or True, True)
    return Step((kind, key), call.invoked, call.returned, at_its_time)


def _answer(operation: Callable[[], Any]) -> Any:
    try:
        return operation()
    except StorageError as error:
        return error


def _same(answer: Any, expected: Any) -> bool:
    """Whether two answers are the same, but for numbers that an engine chooses, and texts of errors."""
    if isinstance(answer, StorageError) or isinstance(expected, StorageError):
        return type(answer) is type(expected)
    if isinstance(answer, Approval) and isinstance(expected, Approval):
        return replace(answer, sequence=0) == replace(expected, sequence=0)
    if isinstance(answer, IdempotencyClaim) and isinstance(expected, IdempotencyClaim):
        return replace(answer, token=0) == replace(expected, token=0)
    equal: bool = answer == expected
    return equal


def _argument(call: RecordedCall, place: int, name: str, default: Any = None) -> Any:
    return call.args[place] if len(call.args) > place else call.kwargs.get(name, default)


def _plain(call: RecordedCall, kind: str) -> Iterator[Step]:
    """The model has a method of the same name, and the first argument is the record's key."""
    _, _, name = call.method.partition(".")
    kwargs = {key: value for key, value in call.kwargs.items() if key != "now"}

    def fits(model: Model) -> bool:
        method = getattr(getattr(model, kind), name)
        return _same(call.answer, _answer(lambda: method(*call.args, **kwargs)))

    yield _step(call, kind, call.args[0], fits)


def _registered(call: RecordedCall) -> Iterator[Step]:
    timestamp = _argument(call, 1, "timestamp")

    def fits(model: Model) -> bool:
        return call.answer is model.nonces.register(call.args[0], timestamp)

    yield _step(call, "nonces", call.args[0], fits)


def _updated(call: RecordedCall) -> Iterator[Step]:
    user_id, seen = call.args
    default = call.kwargs.get("default")

    def fits(model: Model) -> bool:
        current = model.sessions.get(user_id)
        before = current.data if current else default
        if isinstance(call.answer, StorageError):
            return True
        return bool(before == seen["before"]) and _same(
            call.answer, model.sessions.put(user_id, seen["after"])
        )

    if "after" in seen:
        yield _step(call, "sessions", user_id, fits)


def _claimed_key(call: RecordedCall) -> Iterator[Step]:
    key = call.args[0]
    kwargs = {name: value for name, value in call.kwargs.items() if name != "now"}

    def fits(model: Model) -> bool:
        expected = _answer(lambda: model.idempotency.claim(key, **kwargs))
        if isinstance(expected, IdempotencyClaim) and expected.state is ClaimState.ACQUIRED:
            token = call.answer.token if isinstance(call.answer, IdempotencyClaim) else -2
            for row in model.state.tables.keys:
                row.token = token
        return _same(call.answer, expected)

    yield _step(call, "idempotency", key, fits)


def _completed_key(call: RecordedCall) -> Iterator[Step]:
    claim = call.args[0]
    name = call.method.partition(".")[2]

    def fits(model: Model) -> bool:
        method = getattr(model.idempotency, name)
        return _same(call.answer, _answer(lambda: method(*call.args)))

    yield _step(call, "idempotency", claim.key, fits)


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
            yield _step(call, "idempotency", key, claims(ClaimState.IN_PROGRESS))
        elif call.is_answered and not isinstance(call.answer, Exception):
            yield _step(call, "idempotency", key, claims(ClaimState.COMPLETED))
        return
    yield replace(_step(call, "idempotency", key, claims(ClaimState.ACQUIRED)), returned=began)
    if ended is not None and not isinstance(call.answer, Exception):
        yield replace(_step(call, "idempotency", key, completes), invoked=ended)


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
        return _same(call.answer, _answer(lambda: method(*call.args, **kwargs)))

    if name != "acquire" or "ttl" in kwargs:
        yield _step(call, "lock", lock_name, fits)


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


class _Jobs:
    """The steps of the queue, job by job."""

    def __init__(self, calls: Sequence[RecordedCall], *, loose: bool) -> None:
        self._calls = [call for call in calls if call.method.startswith("queue.")]
        self._loose = loose

    def steps(self) -> Iterator[Step]:
        for call in self._calls:
            make = getattr(self, f"_{call.method.partition('.')[2]}", None)
            if make is not None and not isinstance(call.answer, StorageUnavailable):
                yield from make(call)
        if self._loose:
            yield from self._hidden()

    def _hidden(self) -> Iterator[Step]:
        """Claims whose answer nobody got, and rescues by claims, whose answers do not tell of them."""
        unanswered = [
            call for call in self._calls if call.method == "queue.claim_due" and not call.is_answered
        ]
        claims: defaultdict[int, int] = defaultdict(int)
        for call in self._calls:
            for job in _jobs_in(call.answer):
                claims[job.id] = max(claims[job.id], job.claim)
        for id, most in claims.items():
            for call in unanswered:
                yield self._one(call, id, _claims_by(call))
            for _ in range(most):
                yield Step(("job", id), 0, UNANSWERED, _rescued_in_time, is_optional=True)

    def _same(self, answer: Any, expected: Any) -> bool:
        if isinstance(answer, Job) and isinstance(expected, Job):
            if self._loose:
                return _essence(answer) == _essence(expected)
            return _without_texts(answer) == _without_texts(expected)
        return _same(answer, expected)

    def _one(self, call: RecordedCall, id: int, fits: Callable[[Model], bool], answer: Any = None) -> Step:
        """A step on one job, at the time that the answer shows if the caller did not give it."""
        if self._loose and isinstance(answer, Job):
            call = replace(call, now=answer.updated_at)
        return _step(call, "job", id, fits)

    def _schedule(self, call: RecordedCall) -> Iterator[Step]:
        if isinstance(call.answer, Job):
            yield self._scheduled(call, call.answer)

    def _schedule_many(self, call: RecordedCall) -> Iterator[Step]:
        if isinstance(call.answer, list):
            for job in {job.id: job for job in call.answer}.values():
                yield self._scheduled(call, job)

    def _scheduled(self, call: RecordedCall, job: Job) -> Step:
        def fits(model: Model) -> bool:
            stored = model.state.tables.jobs.get(job.id)
            if stored is not None:
                return job.idempotency_key is not None and self._same(job, stored)
            new = model.queue.schedule(
                job.platform,
                job.content,
                job.scheduled_at,
                idempotency_key=job.idempotency_key,
                metadata=job.metadata,
                max_retries=job.max_retries,
                max_lateness=job.max_lateness,
            )
            model.state.tables.jobs = {job.id: replace(new, id=job.id)}
            return self._same(job, replace(new, id=job.id))

        return self._one(call, job.id, fits, job)

    def _claim_due(self, call: RecordedCall) -> Iterator[Step]:
        for job in call.answer if isinstance(call.answer, list) else ():
            yield self._one(call, job.id, self._claimed(job), job)

    def _claimed(self, job: Job) -> Callable[[Model], bool]:
        def fits(model: Model) -> bool:
            if job.lease_until is None or job.worker_id is None:
                return False
            lease = job.lease_until - job.updated_at
            claimed = model.queue.claim_due(worker_id=job.worker_id, lease=lease)
            return len(claimed) == 1 and self._same(job, claimed[0])

        return fits

    def _rescue_expired(self, call: RecordedCall) -> Iterator[Step]:
        for job in call.answer if isinstance(call.answer, list) else ():

            def fits(model: Model, job: Job = job) -> bool:
                rescued = model.queue.rescue_expired()
                return len(rescued) == 1 and self._same(job, rescued[0])

            yield self._one(call, job.id, fits, job)

    def _extend(self, call: RecordedCall) -> Iterator[Step]:
        if not isinstance(call.answer, list):
            return
        extended = {job.id: job for job in call.answer}
        for job in call.args[0]:
            after = extended.get(job.id)

            def fits(model: Model, job: Job = job, after: Job | None = after) -> bool:
                expected = model.queue.extend([job], lease=call.kwargs["lease"])
                if after is None:
                    return not expected
                return len(expected) == 1 and self._same(after, expected[0])

            yield self._one(call, job.id, fits, after)

    def _begin_publish(self, call: RecordedCall) -> Iterator[Step]:
        job = call.args[0]

        def fits(model: Model) -> bool:
            expected = _answer(lambda: model.queue.begin_publish(job))
            if self._loose and isinstance(call.answer, ClaimLost):
                return True  # only the engine knows whether the lease had run out
            return self._same(call.answer, expected)

        yield self._one(call, job.id, fits, call.answer)

    def _settle(self, call: RecordedCall) -> Iterator[Step]:
        settled = call.answer
        ended = {job.id: job for job in settled.jobs} if isinstance(settled, Settled) else {}
        for outcome in call.args[0]:
            yield self._ended(call, outcome, ended.get(outcome.job.id, ClaimLost("in the list")))

    def _mark_posted(self, call: RecordedCall) -> Iterator[Step]:
        yield self._ended(call, Posted(call.args[0], _argument(call, 1, "remote_id")), call.answer)

    def _mark_failed(self, call: RecordedCall) -> Iterator[Step]:
        retry_at, retryable = call.kwargs.get("retry_at"), call.kwargs.get("retryable", True)
        outcome = Failed(call.args[0], _argument(call, 1, "error"), retry_at, retryable)
        yield self._ended(call, outcome, call.answer)

    def _mark_unknown(self, call: RecordedCall) -> Iterator[Step]:
        yield self._ended(call, Unknown(call.args[0], _argument(call, 1, "error")), call.answer)

    def _snooze(self, call: RecordedCall) -> Iterator[Step]:
        yield self._ended(call, Snoozed(call.args[0], _argument(call, 1, "until")), call.answer)

    def _release(self, call: RecordedCall) -> Iterator[Step]:
        yield self._ended(call, Released(call.args[0]), call.answer)

    def _ended(self, call: RecordedCall, outcome: Outcome, answer: Any) -> Step:
        def fits(model: Model) -> bool:
            settled = model.queue.settle([outcome])
            expected = settled.jobs[0] if settled.jobs else ClaimLost("it is lost")
            return self._same(answer, expected)

        return self._one(call, outcome.job.id, fits, answer)

    def _replay(self, call: RecordedCall) -> Iterator[Step]:
        id, at = call.args[0], call.kwargs.get("scheduled_at")

        def fits(model: Model) -> bool:
            return self._same(call.answer, model.queue.replay(id, scheduled_at=at))

        yield self._one(call, id, fits, call.answer)

    def _replay_all(self, call: RecordedCall) -> Iterator[Step]:
        """Its answer does not say which jobs were replayed, unless none was."""
        if call.answer == 0:
            return
        for id in {job.id for other in self._calls for job in _jobs_in(other.answer)}:

            def fits(model: Model, id: int = id) -> bool:
                return model.queue.replay(id) is not None

            yield replace(self._one(call, id, fits), is_optional=True)

    def _reschedule(self, call: RecordedCall) -> Iterator[Step]:
        id = call.args[0]
        kwargs = {name: call.kwargs.get(name) for name in ("content", "metadata")}

        def fits(model: Model) -> bool:
            return self._same(
                call.answer, _answer(lambda: model.queue.reschedule(id, call.args[1], **kwargs))
            )

        if isinstance(call.answer, Job | StatusConflict):
            yield self._one(call, id, fits, call.answer)

    def _remove(self, call: RecordedCall) -> Iterator[Step]:
        yield self._one(call, call.args[0], lambda model: model.queue.remove(call.args[0]) is call.answer)

    def _get(self, call: RecordedCall) -> Iterator[Step]:
        id = call.args[0]
        yield self._one(call, id, lambda model: self._same(call.answer, model.queue.get(id)))

    def _list(self, call: RecordedCall) -> Iterator[Step]:
        for job in _jobs_in(call.answer):

            def fits(model: Model, job: Job = job) -> bool:
                return self._same(job, model.queue.get(job.id))

            yield self._one(call, job.id, fits)

    _dead_letters = _list


def _claims_by(call: RecordedCall) -> Callable[[Model], bool]:
    def fits(model: Model) -> bool:
        worker_id, lease = call.kwargs["worker_id"], call.kwargs["lease"]
        return bool(model.queue.claim_due(worker_id=worker_id, lease=lease))

    return fits


def _rescued_in_time(model: Model) -> bool:
    """A rescue at the moment at which the lease runs out."""
    end = max((job.lease_until for job in model.state.tables.jobs.values() if job.lease_until), default=EPOCH)
    model.state.now = lambda: end
    return bool(model.queue.rescue_expired())


def _jobs_in(answer: Any) -> Iterable[Job]:
    if isinstance(answer, Job):
        return [answer]
    if isinstance(answer, Settled):
        return answer.jobs
    return [each for each in answer if isinstance(each, Job)] if isinstance(answer, list) else []


def _text(text: str | None) -> str | None:
    for start in _REASONS:
        if text is not None and text.startswith(start):
            return start
    return text


def _without_texts(job: Job) -> Job:
    attempts = tuple(
        Attempt(each.number, each.at, each.worker_id, _text(each.error) or "") for each in job.attempts
    )
    return replace(
        job,
        last_error=_text(job.last_error),
        dead_letter_reason=_text(job.dead_letter_reason),
        attempts=attempts,
    )


def _essence(job: Job) -> tuple[Any, ...]:
    return (
        job.id,
        job.status,
        job.claim,
        job.retries,
        job.worker_id,
        job.remote_id,
        job.publish_started_at is None,
        _text(job.dead_letter_reason),
    )
