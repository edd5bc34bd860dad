"""Races over pauses and limits of platforms."""

from __future__ import annotations

from fractions import Fraction

from ..records import NewJob
from . import race_platforms
from .fixtures import HOUR, MINUTE, SECOND, START
from .races import Race
from .racing import RacingContract, flat, rounds


class PlatformRacesContract(RacingContract):
    def test_a_limit_is_kept_in_every_window(self, race: Race) -> None:
        """A hundred a minute, for ten minutes in which there is always more to do."""
        count, step = 100, 20 * SECOND
        moments = [START + number * step for number in range(31)]
        race.storage.platforms.limit("x", count, MINUTE)
        answers = rounds(race.run(race_platforms.take_in_lockstep, "x", 40, moments))
        used = [sum(tokens) for tokens in answers]
        for first in range(len(used)):
            for last in range(first, len(used)):
                gained = Fraction(count * (last - first) * 20, 60)
                assert sum(used[first : last + 1]) <= count + gained
        assert sum(used) >= 0.95 * (count + 10 * count)

    def test_a_limit_that_all_set_begins_once(self, race: Race) -> None:
        platforms = [f"platform {number}" for number in range(15)]
        for answers in rounds(race.run(race_platforms.limit_and_take, platforms, 5, HOUR)):
            assert sum(answers) == 5

    def test_a_pause_is_ended_by_one(self, race: Race) -> None:
        platforms = [f"platform {number}" for number in range(15)]
        for platform in platforms:
            race.storage.platforms.pause(platform)
        for answers in rounds(race.run(race_platforms.resume, platforms)):
            assert sum(answers) == 1

    def test_the_longest_pause_stays(self, race: Race) -> None:
        platforms = [f"platform {number}" for number in range(15)]
        race.run(race_platforms.pause_for, platforms, START, MINUTE)
        found = race.storage.platforms.list(now=START)
        assert [platform.paused_until for platform in found] == [START + race.size * MINUTE] * 15
        assert {platform.by for platform in found} == {f"racer-{race.size - 1}"}

    def test_no_claim_after_a_pause_hands_out_its_jobs(self, race: Race) -> None:
        now, size = START + HOUR, 80
        platforms = [f"platform {number}" for number in range(4)]
        for platform in platforms:
            race.storage.queue.schedule_many(NewJob(platform, "hello", START) for _ in range(size))
        handed_out = 0
        for answers in rounds(race.run(race_platforms.pause_or_claim, platforms, now)):
            (paused_at, _), *others = answers
            claims = [claim for _, claims in others for claim in claims]
            assert [jobs for began, jobs in claims if began > paused_at and jobs] == []
            handed_out += len(flat([jobs for _, jobs in claims]))
        for platform in platforms:
            assert race.storage.platforms.resume(platform, now=now) is True
        left = race.storage.queue.claim_due(worker_id="test", limit=1000, now=now)
        assert len(left) == size * len(platforms) - handed_out
