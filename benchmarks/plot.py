"""A picture of the ratios, with the goals marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .running import Result

_COLOURS = {True: "#2a7f62", False: "#b5483a"}


def write_plot(path: Path, results: Sequence[Result]) -> None:
    """One bar for each goal. Where less is better, bar and goal are turned over: longer is better."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    judged = [result for result in results if result.goal is not None and not result.absolute][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.36 * len(judged) + 1.2))
    places = range(len(judged))
    axes.barh(
        places,
        [_reached(result) for result in judged],
        color=[_COLOURS[bool(result.met)] for result in judged],
        xerr=[
            [_reached(result) - _bounds(result)[0] for result in judged],
            [_bounds(result)[1] - _reached(result) for result in judged],
        ],
        error_kw={"elinewidth": 1, "ecolor": "#444444"},
    )
    axes.scatter([_goal(result) for result in judged], places, marker="|", s=260, color="black", zorder=3)
    axes.set_yticks(places, [_label(result) for result in judged], fontsize=8)
    axes.set_xlabel("ratio to the raw driver: bar = median, whisker = quartiles, | = goal")
    axes.set_xscale("log", base=2)
    axes.set_xlim(left=min(0.1, *map(_reached, judged)) / 1.3)
    ticks = [0.125, 0.25, 0.5, 1, 2, 4, 8]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.axvline(1, color="#888888", linewidth=0.8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _label(result: Result) -> str:
    unit = "" if result.more_is_better else f" ({result.unit}, floor / ours)"
    name = "" if result.contender == "Assistly" else f": {result.contender}"
    return f"{result.row}{name}{unit}"


def _reached(result: Result) -> float:
    return result.ratio.median if result.more_is_better else 1 / result.ratio.median


def _bounds(result: Result) -> tuple[float, float]:
    low, high = result.ratio.low, result.ratio.high
    return (low, high) if result.more_is_better else (1 / high, 1 / low)


def _goal(result: Result) -> float:
    goal = result.goal or 1.0
    return goal if result.more_is_better else 1 / goal
