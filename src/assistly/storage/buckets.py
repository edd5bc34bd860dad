"""The token bucket of a platform's limit, in whole numbers."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from .records import record

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@record
class Bucket:
    """Holds at most `count` tokens, and gains `count` within `per` microseconds.

    `level` is what it held at `at` (microseconds since 1970), where a token is `per` units: so each
    microsecond adds `count` units, and nothing is rounded. `set_at` is when the limit was set.
    """

    count: int
    per: int
    level: int
    at: int
    set_at: int

    @classmethod
    def full(cls, count: int, per: timedelta, now: datetime) -> Self:
        """A bucket that nothing was taken from."""
        length, at = per // _MICROSECOND, _microseconds(now)
        return cls(count, length, count * length, at, at)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(data["count"], data["per"], data["level"], data["at"], data["set_at"])

    def as_json(self) -> dict[str, Any]:
        """What is stored."""
        return asdict(self)

    @property
    def limit(self) -> tuple[int, timedelta]:
        """How many tokens it gains in how long."""
        return self.count, self.per * _MICROSECOND

    @property
    def limited_at(self) -> datetime:
        """When the limit was set."""
        return _EPOCH + self.set_at * _MICROSECOND

    def at_time(self, now: datetime) -> Self:
        """The bucket at `now`. If that is before `at`, nothing changes: a clock was set back."""
        at = max(self.at, _microseconds(now))
        level = min(self.count * self.per, self.level + (at - self.at) * self.count)
        return replace(self, level=level, at=at)

    def taken(self, most: int, now: datetime) -> tuple[Self, int]:
        """The bucket without up to `most` whole tokens, and how many these are."""
        current = self.at_time(now)
        tokens = min(most, current.level // self.per)
        return replace(current, level=current.level - tokens * self.per), tokens

    def given_back(self, tokens: int, now: datetime) -> Self:
        """The bucket with tokens that were taken and not used."""
        current = self.at_time(now)
        return replace(current, level=min(self.count * self.per, current.level + tokens * self.per))

    def limited_to(self, count: int, per: timedelta, now: datetime) -> Self:
        """A bucket with another limit, which holds no more tokens than this one does.

        With the same limit it holds the same.
        """
        length, set_at = per // _MICROSECOND, _microseconds(now)
        if (count, length) == (self.count, self.per):
            return replace(self, set_at=set_at)
        current = self.at_time(now)
        level = min(count, current.level // current.per) * length
        return replace(current, count=count, per=length, level=level, set_at=set_at)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
