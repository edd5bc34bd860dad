"""The time of each operation against the length of the history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .scale import Result


def write_plot(path: Path, results: Sequence[Result]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    engines = list(dict.fromkeys(result.engine for result in results))
    figure, panels = plt.subplots(
        1, len(engines), figsize=(5.2 * len(engines) + 2, 5.5), sharey=True, squeeze=False
    )
    for axes, engine in zip(panels[0], engines, strict=True):
        for number, result in enumerate(one for one in results if one.engine == engine):
            axes.plot(
                list(result.seconds),
                [seconds * 1000 for seconds in result.seconds.values()],
                marker="o",
                markersize=3,
                linewidth=1.2,
                color=plt.get_cmap("tab20")(number % 20),
                linestyle="-" if result.hot else ":",
                label=result.operation,
            )
        axes.set(xscale="log", yscale="log", title=engine, xlabel="posted jobs that are stored")
        axes.grid(visible=True, linewidth=0.3)
    panels[0][0].set_ylabel("milliseconds, median")
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
