"""Splits recorded calls of the queue into steps, each on one job, that the model can repeat."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from ..errors import ClaimLost, InvalidValue, OutcomeUnknown, StatusConflict
from ..records import Attempt, Failed, Job, NewJob, Outcome, Posted, Released, Settled, Snoozed, Unknown
from .history import UNANSWERED, RecordedCall
from .history_steps import Step, answer_of, argument, same_answers, step
from .model import EPOCH, Model
from .model_state import canonical

_REASONS = ("lease expired: ", "outcome unknown: ", "missed: ")


class QueueSteps:
    """The steps of the queue, job by job."""

    def __init__(self, calls: Sequence[RecordedCall], *, loose: bool) -> None:
        self._calls = [call for call in calls if call.method.startswith("queue.")]
        self._loose = loose

    def steps(self) -> Iterator[Step]:
        for call in self._calls:
            make = getattr(self, f"_{call.method.partition('.')[2]}", None)
            if make is not None and not isinstance(call.answer, InvalidValue):
                yield from make(call)
        if self._loose:
            yield from self._hidden()

    def _hidden(self) -> Iterator[Step]:
        """Claims whose answer nobody got, and rescues by claims, whose answers do not tell of them."""
        unanswered = sorted(
            (call for call in self._calls if call.method == "queue.claim_due" and not call.is_answered),
            key=lambda call: call.invoked,
        )
        claims: defaultdict[int, int] = defaultdict(int)
        handed_out: Counter[int] = Counter()
        for call in self._calls:
            for job in _jobs_in(call.answer):
                claims[job.id] = max(claims[job.id], job.claim)
                handed_out[job.id] += call.method == "queue.claim_due"
        for id, most in claims.items():
            # Each claim has the next number, so the missing ones can be counted. Any unanswered call may have
            # made them; the first ones stand for all.
            for call in unanswered[: max(0, most - handed_out[id])]:
                yield self._one(call, id, _claims_by(call))
            for _ in range(most):
                yield Step(("job", id), 0, UNANSWERED, _rescued_in_time, is_optional=True)

    def _same(self, answer: Any, expected: Any) -> bool:
        if isinstance(answer, Job) and isinstance(expected, Job):
            if self._loose:
                return _essence(answer) == _essence(expected)
            return _without_texts(answer) == _without_texts(expected)
        return same_answers(answer, expected)

    def _one(self, call: RecordedCall, id: int, fits: Callable[[Model], bool], answer: Any = None) -> Step:
        """A step on one job, at the time that the answer shows if the caller did not give it."""
        if self._loose and isinstance(answer, Job):
            call = replace(call, now=answer.updated_at)
        return step(call, "job", id, fits)

    def _schedule(self, call: RecordedCall) -> Iterator[Step]:
        if isinstance(call.answer, Job):
            yield self._scheduled(call, call.answer)

    def _schedule_many(self, call: RecordedCall) -> Iterator[Step]:
        """With `returning="none"` nobody knows the ids, so the history says nothing about these jobs."""
        if not isinstance(call.answer, list):
            return
        if call.kwargs.get("returning", "jobs") == "jobs":
            for job in {job.id: job for job in call.answer}.values():
                yield self._scheduled(call, job)
            return
        for new, id in zip(call.args[0], call.answer, strict=False):
            yield self._scheduled_unseen(call, new, id)

    def _scheduled_unseen(self, call: RecordedCall, new: NewJob, id: int) -> Step:
        """Of this job the caller was told the id alone."""

        def fits(model: Model) -> bool:
            given = {field.name: getattr(new, field.name) for field in fields(new)}
            job = model.queue.schedule(**{**given, "min_gap": None})
            if id not in model.state.tables.jobs:
                model.state.tables.jobs = {id: replace(job, id=id)}
                return True
            return job.id == id

        return self._one(call, id, fits)

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
            expected = answer_of(lambda: model.queue.begin_publish(job))
            if self._loose and isinstance(call.answer, ClaimLost):
                return True  # only the engine knows whether the lease had run out
            return self._same(call.answer, expected)

        yield self._one(call, job.id, fits, call.answer)

    def _begin_publish_many(self, call: RecordedCall) -> Iterator[Step]:
        if call.is_answered and not isinstance(call.answer, list | OutcomeUnknown):
            return
        is_known = isinstance(call.answer, list)
        begun = {(job.id, job.claim): job for job in call.answer} if is_known else {}
        for job in call.args[0]:
            after = begun.get((job.id, job.claim))

            def fits(model: Model, job: Job = job, after: Job | None = after) -> bool:
                if self._loose and is_known and after is None:
                    return True  # only the engine knows whether the lease had run out
                expected = [*model.queue.begin_publish_many([job])]
                if after is None:
                    return not expected
                return len(expected) == 1 and self._same(after, expected[0])

            yield self._one(call, job.id, fits, after)

    def _settle(self, call: RecordedCall) -> Iterator[Step]:
        settled = call.answer
        ended = {job.id: job for job in settled.jobs} if isinstance(settled, Settled) else {}
        for outcome in call.args[0]:
            yield self._ended(call, outcome, ended.get(outcome.job.id, ClaimLost("in the list")))

    def _mark_posted(self, call: RecordedCall) -> Iterator[Step]:
        yield self._ended(call, Posted(call.args[0], argument(call, 1, "remote_id")), call.answer)

    def _mark_failed(self, call: RecordedCall) -> Iterator[Step]:
        retry_at, retryable = call.kwargs.get("retry_at"), call.kwargs.get("retryable", True)
        outcome = Failed(call.args[0], argument(call, 1, "error"), retry_at, retryable)
        yield self._ended(call, outcome, call.answer)

    def _mark_unknown(self, call: RecordedCall) -> Iterator[Step]:
        yield self._ended(call, Unknown(call.args[0], argument(call, 1, "error")), call.answer)

    def _snooze(self, call: RecordedCall) -> Iterator[Step]:
        yield self._ended(call, Snoozed(call.args[0], argument(call, 1, "until")), call.answer)

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

            def fits(model: Model) -> bool:
                given = {
                    name: call.kwargs[name]
                    for name in ("platform", "unknown", "missed")
                    if name in call.kwargs
                }
                return model.queue.replay_all(**given) == 1

            yield replace(self._one(call, id, fits), is_optional=True)

    def _resolve(self, call: RecordedCall) -> Iterator[Step]:
        id = call.args[0]
        answer = {name: value for name, value in call.kwargs.items() if name != "now"}

        def fits(model: Model) -> bool:
            return self._same(call.answer, answer_of(lambda: model.queue.resolve(id, **answer)))

        yield self._one(call, id, fits, call.answer)

    def _cancel(self, call: RecordedCall) -> Iterator[Step]:
        id = call.args[0]

        def fits(model: Model) -> bool:
            return self._same(call.answer, answer_of(lambda: model.queue.cancel(id)))

        yield self._one(call, id, fits, call.answer)

    def _checkpoint(self, call: RecordedCall) -> Iterator[Step]:
        job, data = call.args[0], argument(call, 1, "data")

        def fits(model: Model) -> bool:
            return self._same(call.answer, answer_of(lambda: model.queue.checkpoint(job, data)))

        yield self._one(call, job.id, fits, call.answer)

    def _reschedule(self, call: RecordedCall) -> Iterator[Step]:
        id = call.args[0]
        kwargs = {name: call.kwargs.get(name) for name in ("content", "metadata")}

        def fits(model: Model) -> bool:
            return self._same(
                call.answer, answer_of(lambda: model.queue.reschedule(id, call.args[1], **kwargs))
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
    _upcoming = _list


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
        canonical(job.checkpoint),
        _text(job.dead_letter_reason),
    )
