"""Races over jobs: what each racer does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ..errors import ClaimLost, ScheduleConflict, StatusConflict
from ..records import Job, NewJob, Posted, Settled
from .races import Racer, caught


def claim_until_none_is_due(racer: Racer, limit: int, now: datetime) -> list[list[Job]]:
    batches: list[list[Job]] = []
    while batch := racer.storage.queue.claim_due(worker_id=racer.name, limit=limit, now=now):
        batches.append(batch)
    return batches


def claim_at(racer: Racer, moments: Sequence[datetime]) -> list[list[Job]]:
    queue = racer.storage.queue
    return racer.rounds(moments, lambda now: queue.claim_due(worker_id=racer.name, now=now))


def claim_and_release(racer: Racer, times: int) -> list[tuple[int, int]]:
    """The (id, claim) of what was claimed."""
    queue = racer.storage.queue
    claims: list[tuple[int, int]] = []
    for _ in range(times):
        for job in queue.claim_due(worker_id=racer.name, limit=2):
            assert queue.release(job).status == "scheduled"
            claims.append((job.id, job.claim))
    return claims


def schedule_near(
    racer: Racer, platform: str, slots: Sequence[datetime], gap: timedelta
) -> list[Job | ScheduleConflict]:
    """Each racer a little off the slot, and all within the gap."""

    def turn(slot: datetime) -> Job | ScheduleConflict:
        at = slot + timedelta(seconds=racer.number)
        return caught(
            ScheduleConflict, lambda: racer.storage.queue.schedule(platform, racer.name, at, min_gap=gap)
        )

    return racer.rounds(slots, turn)


def schedule_on_all(
    racer: Racer, platforms: Sequence[str], slots: Sequence[datetime], gap: timedelta
) -> list[list[Job] | ScheduleConflict]:
    """A batch for each slot, with the platforms forwards or backwards."""
    ordered = platforms if racer.number % 2 else platforms[::-1]

    def turn(slot: datetime) -> list[Job] | ScheduleConflict:
        batch = [NewJob(platform, racer.name, slot, min_gap=gap) for platform in ordered]
        return caught(ScheduleConflict, lambda: racer.storage.queue.schedule_many(batch))

    return racer.rounds(slots, turn)


def reschedule_own(
    racer: Racer, jobs: Sequence[Sequence[Job]], slot: datetime, gap: timedelta
) -> list[Job | ScheduleConflict]:
    """In each round, each racer moves its own job to the round's slot."""
    queue = racer.storage.queue

    def turn(number: int) -> Job | ScheduleConflict:
        at = slot + number * gap
        return caught(
            ScheduleConflict,
            lambda: queue.reschedule(jobs[number][racer.number].id, at, min_gap=gap),
        )

    return racer.rounds(range(len(jobs)), turn)


def schedule_with_key(racer: Racer, keys: Sequence[str]) -> list[Job]:
    queue = racer.storage.queue
    return racer.rounds(keys, lambda key: queue.schedule("x", "hello", idempotency_key=key))


def schedule_batches(racer: Racer, batches: Sequence[Sequence[str]]) -> list[dict[str, Job]]:
    """A job for each key, in the order of the keys or in the opposite one."""

    def turn(keys: Sequence[str]) -> dict[str, Job]:
        ordered = keys if racer.number % 2 else keys[::-1]
        batch = [NewJob("x", "hello", idempotency_key=key) for key in ordered]
        return dict(zip(ordered, racer.storage.queue.schedule_many(batch), strict=True))

    return racer.rounds(batches, turn)


def settle_or_rescue(racer: Racer, held: Sequence[Job], now: datetime) -> list[Job | ClaimLost | list[Job]]:
    """The first racer settles a job whose lease is just over, and the others take it back."""
    queue = racer.storage.queue

    def turn(job: Job) -> Job | ClaimLost | list[Job]:
        if racer.number == 0:
            return caught(ClaimLost, lambda: queue.mark_posted(job, "remote", now=now))
        assert job.lease_until is not None
        return queue.rescue_expired(now=job.lease_until)

    return racer.rounds(held, turn)


def begin_or_rescue(racer: Racer, held: Sequence[Job], now: datetime) -> list[Job | ClaimLost | list[Job]]:
    """As above, and by its own clock the first racer is in time to begin to publish."""
    queue = racer.storage.queue

    def turn(job: Job) -> Job | ClaimLost | list[Job]:
        if racer.number == 0:
            return caught(ClaimLost, lambda: queue.begin_publish(job, now=now))
        assert job.lease_until is not None
        return queue.rescue_expired(now=job.lease_until)

    return racer.rounds(held, turn)


def settle_all(racer: Racer, batches: Sequence[Sequence[Job]]) -> list[Settled]:
    """The same claims by each racer, beginning at different ones."""
    queue = racer.storage.queue

    def turn(held: Sequence[Job]) -> Settled:
        start = len(held) * racer.number // racer.size
        return queue.settle(Posted(job, racer.name) for job in [*held[start:], *held[:start]])

    return racer.rounds(batches, turn)


def rescue(racer: Racer, moments: Sequence[datetime]) -> list[list[Job]]:
    return racer.rounds(moments, lambda now: racer.storage.queue.rescue_expired(now=now))


def replay(racer: Racer, ids: Sequence[int]) -> list[Job | None]:
    return racer.rounds(ids, racer.storage.queue.replay)


def replay_all(racer: Racer) -> int:
    return racer.storage.queue.replay_all()


def resolve(racer: Racer, ids: Sequence[int]) -> list[Job | StatusConflict]:
    """The answers differ: the racers with even numbers say that it was posted."""
    queue = racer.storage.queue
    posted = racer.number % 2 == 0
    remote_id = racer.name if posted else None

    def turn(job_id: int) -> Job | StatusConflict:
        return caught(StatusConflict, lambda: queue.resolve(job_id, posted=posted, remote_id=remote_id))

    return racer.rounds(ids, turn)


def resolve_or_replay(racer: Racer, ids: Sequence[int]) -> list[Job | StatusConflict | None]:
    """The first racer answers, and the others replay."""
    queue = racer.storage.queue

    def turn(job_id: int) -> Job | StatusConflict | None:
        if racer.number == 0:
            return caught(StatusConflict, lambda: queue.resolve(job_id, posted=True, remote_id="remote"))
        return queue.replay(job_id)

    return racer.rounds(ids, turn)


def begin_or_cancel(racer: Racer, held: Sequence[Job]) -> list[Job | ClaimLost | StatusConflict]:
    """The first racer begins to publish, and the others cancel."""
    queue = racer.storage.queue

    def turn(job: Job) -> Job | ClaimLost | StatusConflict:
        if racer.number == 0:
            return caught(ClaimLost, lambda: queue.begin_publish(job))
        return caught(StatusConflict, lambda: queue.cancel(job.id))

    return racer.rounds(held, turn)


def cancel_or_claim(racer: Racer, jobs: Sequence[Job]) -> list[list[Job]]:
    """The first racer cancels, and the others claim what is due."""
    queue = racer.storage.queue

    def turn(job: Job) -> list[Job]:
        if racer.number == 0:
            return [queue.cancel(job.id)]
        return queue.claim_due(worker_id=racer.name, now=job.due_at)

    return racer.rounds(jobs, turn)


def note_or_rescue(racer: Racer, begun: Sequence[Job], now: datetime) -> list[Job | ClaimLost | list[Job]]:
    """The first racer notes how far publishing is, though its lease is over; the others take it back."""
    queue = racer.storage.queue

    def turn(job: Job) -> Job | ClaimLost | list[Job]:
        if racer.number == 0:
            return caught(ClaimLost, lambda: queue.checkpoint(job, {"step": 1}, now=now))
        assert job.lease_until is not None
        return queue.rescue_expired(now=job.lease_until)

    return racer.rounds(begun, turn)


def note(racer: Racer, claims: Sequence[tuple[Job, Job]]) -> list[Job | ClaimLost]:
    """Of each pair, the racers with odd numbers have the claim that was overtaken."""
    queue = racer.storage.queue
    return racer.rounds(
        claims,
        lambda pair: caught(
            ClaimLost, lambda: queue.checkpoint(pair[racer.number % 2], {"by": racer.name, "floats": [1.0]})
        ),
    )
