"""`assistly metrics`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .opening import opened
from .options import Json
from .output import Output, count_text, is_terminal, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from assistly.views.metrics import StorageMetrics
    from assistly.views.status import JobCount


def metrics(
    json: Json = False,
    prometheus: Annotated[
        bool,
        typer.Option(
            "--prometheus", help="Print the text format of Prometheus (extra: assistly[prometheus])."
        ),
    ] = False,
) -> None:
    """Show the queue by status and platform, and the counters and latency of the application.

    Posted and cancelled jobs are not counted. "10,000+" means that counting stopped there.
    """
    from assistly.views.metrics import collect

    if json and prometheus:
        raise typer.BadParameter("give --json or --prometheus, not both")
    exposition = _load_exposition() if prometheus else None
    out = Output(json=json)
    with opened(out) as storage:
        found = collect(storage)
    if exposition is not None:
        text = exposition(found)
        typer.echo(printable(text) if is_terminal(sys.stdout) else text, nl=False)
    elif json:
        out.document(found)
    else:
        _print(out, found)


def _load_exposition() -> Callable[[StorageMetrics], str]:
    from assistly.storage.errors import ConfigurationError

    try:
        from assistly.views.exposition import exposition
    except ImportError as error:
        raise ConfigurationError(
            f"--prometheus needs prometheus-client ({error}): python -m pip install 'assistly[prometheus]'"
        ) from None
    return exposition


def _print(out: Output, found: StorageMetrics) -> None:
    from assistly.views.metrics import STATUSES
    from assistly.views.text import span

    if found.jobs:
        counts = {(depth.platform, depth.status): depth.count for depth in found.jobs}
        rows = [
            (
                one_line(due.platform),
                *(_count(counts[due.platform, status]) for status in STATUSES),
                _count(due.count),
            )
            for due in found.due
        ]
        out.table(("platform", *STATUSES, "due"), rows)
    else:
        out.say("no jobs that are not posted or cancelled")
    out.say("")
    latency = found.latency
    age = "nothing is due" if found.oldest_due_age is None else f"waits for {span(found.oldest_due_age)}"
    average = latency.total_ms / latency.count if latency.count else 0.0
    out.table(
        (),
        [
            ("oldest due", f"{age} (paused platforms are left out)"),
            ("unknown outcomes", _count(found.unknown_outcomes)),
            ("requests", f"{latency.count:,}, {average:.1f} ms on average, {latency.max_ms:.1f} ms at most"),
            *((f"counter {one_line(name)}", f"{value:,}") for name, value in found.counters.items()),
        ],
    )


def _count(count: JobCount) -> str:
    return count_text(count.count, exact=count.exact)
