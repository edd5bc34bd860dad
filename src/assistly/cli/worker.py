"""`assistly worker`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from assistly.storage.retry import RetryPolicy
    from assistly.storage.settings import StorageSettings
    from assistly.worker import Publisher
    from assistly.worker.options import WorkerOptions


def worker(
    publish: Annotated[
        list[str],
        typer.Option(
            metavar="PLATFORM=PUBLISHER",
            help="What publishes there: stdout, file:PATH, webhook:URL or MODULE:ATTRIBUTE. Repeatable.",
        ),
    ],
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="The most jobs at once.")] = 4,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLATFORM=N", help="The most at once for a platform, in all workers together. Repeatable."
        ),
    ] = None,
    lease: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which the jobs of a dead worker are taken back.")
    ] = 60,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for running jobs after the first signal.")
    ] = 30,
    poll: Annotated[float, typer.Option(min=0.01, help="The longest sleep, in seconds.")] = 5,
    exponential: Annotated[
        bool, typer.Option("--exponential", help="Double the delay after each failed attempt, up to a day.")
    ] = False,
    worker_id: Annotated[str | None, typer.Option(help="Default: host, process and a random part.")] = None,
    webhook_secret: Annotated[
        str | None, typer.Option(envvar="WEBHOOK_SECRET", show_envvar=True, help="Signs what webhook sends.")
    ] = None,
    drain: Annotated[bool, typer.Option("--drain", help="Publish what is due now, then end.")] = False,
) -> None:
    """Publish due jobs, until SIGTERM or SIGINT.

    The first signal shuts it down gracefully: it claims nothing new, gives running jobs the grace time to
    finish, and exits with code 0. A second one ends it at once.
    """
    from assistly.worker.signals import exit_on_signals

    _log_to_stderr()
    with exit_on_signals():
        publishers = _publishers(publish, webhook_secret)
        options: WorkerOptions = {
            "worker_id": worker_id,
            "concurrency": concurrency,
            "platform_concurrency": _limits(limit or []),
            "lease": timedelta(seconds=lease),
            "grace": grace,
            "poll": poll,
        }
        _run(publishers, options, exponential=exponential, drain=drain)


def _run(
    publishers: Mapping[str, Publisher], options: WorkerOptions, *, exponential: bool, drain: bool
) -> None:
    from assistly.storage.factory import build_storage
    from assistly.storage.settings import load_settings
    from assistly.worker import Worker
    from assistly.worker.signals import stop_on_signals

    settings = load_settings()
    if exponential:
        options["retry"] = _exponential(settings)
    with build_storage(settings) as storage:
        storage.ping()
        worker = Worker(storage, publishers, **options)
        if drain:
            with stop_on_signals(worker.stop, pass_on=False):
                worker.run_until_idle()
        else:
            worker.run()  # passes a signal on to exit_on_signals


def _publishers(given: Sequence[str], secret: str | None) -> dict[str, Publisher]:
    import sys

    from assistly.worker.publishers import load_publisher

    # So that publishers in the working directory can be imported, as with `python -m`.
    if "" not in sys.path:
        sys.path.insert(0, "")
    publishers: dict[str, Publisher] = {}
    for text in given:
        platform, spec = _pair("--publish", text, "PLATFORM=PUBLISHER")
        if platform in publishers:
            raise typer.BadParameter(f"--publish names {platform!r} twice")
        publishers[platform] = load_publisher(spec, webhook_secret=secret)
    return publishers


def _limits(given: Sequence[str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for text in given:
        platform, number = _pair("--limit", text, "PLATFORM=N")
        if not (number.isascii() and number.isdecimal()):
            raise typer.BadParameter(f"--limit takes PLATFORM=N; got {text!r}")
        limits[platform] = int(number)
    return limits


def _pair(option: str, text: str, form: str) -> tuple[str, str]:
    platform, equals, value = text.partition("=")
    if not (platform and equals and value):
        raise typer.BadParameter(f"{option} takes {form}; got {text!r}")
    return platform, value


def _exponential(settings: StorageSettings) -> RetryPolicy:
    from assistly.storage.retry import ExponentialRetry

    fixed = settings.retry_policy()
    return ExponentialRetry(max_retries=fixed.max_retries, delay=fixed.delay)


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
