"""Races over platforms: what each racer does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic_ns

from ..records import Job
from .races import Racer


def take_in_lockstep(racer: Racer, platform: str, most: int, moments: Sequence[datetime]) -> list[int]:
    """How many tokens were used at each moment. The first racer gives all back at each second one."""
    platforms = racer.storage.platforms

    def turn(now: datetime) -> int:
        tokens = platforms.take(platform, most, now=now)
        if tokens and racer.number == 0 and moments.index(now) % 2:
            platforms.give_back(platform, tokens, now=now)
            return 0
        return tokens

    return racer.rounds(moments, turn)


def limit_and_take(racer: Racer, platforms: Sequence[str], count: int, per: timedelta) -> list[int]:
    """All set the same limit, which no one has set before."""

    def turn(platform: str) -> int:
        racer.storage.platforms.limit(platform, count, per)
        return racer.storage.platforms.take(platform, count)

    return racer.rounds(platforms, turn)


def resume(racer: Racer, platforms: Sequence[str]) -> list[bool]:
    return racer.rounds(platforms, racer.storage.platforms.resume)


def pause_for(racer: Racer, platforms: Sequence[str], start: datetime, step: timedelta) -> list[object]:
    """Each for another time: the last racer for the longest."""
    until = start + (racer.number + 1) * step
    return racer.rounds(
        platforms, lambda platform: racer.storage.platforms.pause_at_least(platform, until, by=racer.name)
    )


def pause_or_claim(
    racer: Racer, platforms: Sequence[str], now: datetime
) -> list[tuple[int, list[tuple[int, list[Job]]]]]:
    """The first racer pauses the platform; the others claim its jobs, one by one, until they get none.

    For each platform: when the pause had returned (0 for the others), and when each claim began, with what it
    handed out.
    """
    queue = racer.storage.queue

    def turn(platform: str) -> tuple[int, list[tuple[int, list[Job]]]]:
        if racer.number == 0:
            queue.claim_due(worker_id=racer.name, limit=1, platforms=["nothing of it"], now=now)
            racer.storage.platforms.pause(platform, now=now)
            return monotonic_ns(), []
        wanted = [platform] if racer.number % 2 else [platform, "nothing of it"]
        claims: list[tuple[int, list[Job]]] = []
        while not claims or claims[-1][1]:
            began = monotonic_ns()
            claims.append((began, queue.claim_due(worker_id=racer.name, limit=1, platforms=wanted, now=now)))
        return 0, claims

    return racer.rounds(platforms, turn)
