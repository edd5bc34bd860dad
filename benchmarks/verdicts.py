"""Which rows hold what the thresholds ask for."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .running import Result
from .thresholds import THRESHOLDS, Threshold


@dataclass(frozen=True)
class Check:
    """One thing that is asked of a figure."""

    asked: str
    reached: float
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """A figure of ours, with what is asked of it. `checks` is empty where nothing is, or no peer ran."""

    result: Result
    peer: str | None
    """The best one."""
    peer_times: float | None
    """How many times as fast as the best peer: the median of the rounds."""
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool | None:
        return all(check.holds for check in self.checks) if self.checks else None


def verdicts(results: Sequence[Result]) -> Iterator[Verdict]:
    for result in results:
        if result.role == "ours":
            others = [one for one in results if (one.row, one.figure) == (result.row, result.figure)]
            yield _verdict(result, [one for one in others if one.role == "peer"])


def _verdict(result: Result, peers: Sequence[Result]) -> Verdict:
    thresholds = THRESHOLDS.get(result.row, ())
    threshold = thresholds[result.figure] if result.figure < len(thresholds) else Threshold()
    best = min(peers, key=lambda peer: _times(result, peer), default=None)
    times = None if best is None else _times(result, best)
    return Verdict(
        result, None if best is None else best.contender, times, tuple(_checks(result, threshold, times))
    )


def _checks(result: Result, threshold: Threshold, peer_times: float | None) -> Iterator[Check]:
    sign = "≥" if result.more_is_better else "≤"
    for bound, reached, unit in (
        (threshold.ratio, result.ratio.median, ""),
        (threshold.value, result.value.median, f" {result.unit.partition(',')[0]}"),
    ):
        if bound is not None:
            holds = reached >= bound if result.more_is_better else reached <= bound
            yield Check(f"{sign} {bound:g}{unit}", reached, holds)
    if threshold.peers is not None and peer_times is not None:
        yield Check(f"≥ {threshold.peers:g} × best peer", peer_times, peer_times >= threshold.peers)


def _times(ours: Result, peer: Result) -> float:
    """How many times as fast as that peer."""
    ratios = [mine / theirs for mine, theirs in zip(ours.values, peer.values, strict=True)]
    if not ours.more_is_better:
        ratios = [1 / ratio for ratio in ratios]
    return statistics.median(ratios)
