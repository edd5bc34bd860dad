"""`assistly metrics`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .listening import Listen, listening
from .opening import opened
from .options import Json
from .output import Output, count_text, is_terminal, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from assistly.views.metrics import StorageMetrics
    from assistly.views.status import JobCount


def metrics(
    context: typer.Context,
    json: Json = False,
    prometheus: Annotated[
        bool,
        typer.Option("--prometheus", help="Print the Prometheus text format. Needs assistly[prometheus]."),
    ] = False,
    listen: Listen = None,
) -> None:
    """Show the queue by status and platform, and the counters and latency of the application.

    Posted and cancelled jobs are not counted. "10,000+" means that counting stopped there. With --listen,
    serves over HTTP until Ctrl-C or SIGTERM, and prints nothing to stdout.
    """
    from assistly.views.metrics import collect

    if json + prometheus + (listen is not None) > 1:
        raise typer.BadParameter("give only one of --json, --prometheus and --listen")
    if listen is not None:
        _serve(listen, owns_process=context.obj is True)
        return
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


def _serve(address: str, *, owns_process: bool) -> None:
    """Serve on the address until a signal."""
    import threading

    from assistly.worker.signals import SIGNAL_SECONDS, stop_on_signals

    stopped = threading.Event()
    is_serving = False

    def stop() -> None:
        stopped.set()
        if not is_serving:
            raise SystemExit(0)

    with stop_on_signals(stop, pass_on=False, restore=not owns_process):
        monitor, server = listening(address)
        with server:
            out = Output()
            out.remark(f"http://{server.address} serves /healthz and /metrics")
            with opened(out) as storage:
                monitor.attach(storage)
                is_serving = True
                while not stopped.wait(SIGNAL_SECONDS):  # another thread's signal does not wake this one
                    pass


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
    from assistly.views.status import WAITING_TRUNCATED
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
        out.say("no jobs except posted and cancelled ones")
    if found.waiting_truncated:
        out.say(WAITING_TRUNCATED)
    out.say("")
    latency = found.latency
    age = "nothing is due" if found.oldest_due_age is None else f"has waited {span(found.oldest_due_age)}"
    average = latency.total_ms / latency.count if latency.count else 0.0
    out.table(
        (),
        [
            ("oldest due", f"{age} (not counting paused platforms)"),
            ("unknown outcomes", _count(found.unknown_outcomes)),
            (
                "request latency",
                f"{latency.count:,} observed, {average:.1f} ms on average, {latency.max_ms:.1f} ms at most",
            ),
            *((f"counter {one_line(name)}", f"{value:,}") for name, value in found.counters.items()),
        ],
    )


def _count(count: JobCount) -> str:
    return count_text(count.count, exact=count.exact)
