"""`assistly worker`."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from .ending import ProcessEnd
from .listening import Listen, listening
from .logs import LogFormat, log_as_json, log_as_text
from .opening import place_variables, storage_place
from .output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from assistly.monitoring.monitor import Monitor
    from assistly.storage import Storage
    from assistly.storage.retry import RetryPolicy
    from assistly.storage.settings import StorageSettings
    from assistly.worker import Publisher, Worker
    from assistly.worker.options import WorkerOptions

logger = logging.getLogger("assistly.worker")


def worker(
    context: typer.Context,
    publish: Annotated[
        list[str],
        typer.Option(
            metavar="PLATFORM=PUBLISHER",
            help="The publisher: stdout, file:PATH, webhook:URL, or MODULE:ATTRIBUTE. Repeatable.",
        ),
    ],
    concurrency: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="The maximum number of jobs at once.")
    ] = 4,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLATFORM=N", help="The maximum at once for a platform, across all workers. Repeatable."
        ),
    ] = None,
    lease: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="Seconds after which others reclaim the jobs of a dead worker."
        ),
    ] = 60,
    grace: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="Seconds that running jobs have to finish after the first signal."
        ),
    ] = 30,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="Seconds a publisher may take; after that the outcome is unknown. Default: no limit.",
        ),
    ] = None,
    check_pause: Annotated[
        float,
        typer.Option(
            min=0.01,
            metavar="SECONDS",
            help="Seconds until the first check of an unknown outcome. Each later pause doubles.",
        ),
    ] = 10,
    check_for: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Seconds for which the checks continue; 0: never check."),
    ] = 86_400,
    poll: Annotated[
        float,
        typer.Option(
            min=0.01, metavar="SECONDS", help="The longest time between two polls for due jobs, in seconds."
        ),
    ] = 5,
    exponential: Annotated[
        bool, typer.Option("--exponential", help="Double the delay after each failed attempt, up to a day.")
    ] = False,
    worker_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The name of this worker. Default: host, process id and a random part."
        ),
    ] = None,
    webhook_secret: Annotated[
        str | None,
        typer.Option(
            metavar="SECRET",
            help="Signs webhook requests. Default: WEBHOOK_SECRET, which other users cannot see.",
        ),
    ] = None,
    drain: Annotated[bool, typer.Option("--drain", help="Publish what is due now, then exit.")] = False,
    listen: Listen = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(metavar="FORMAT", help="text, or json: one object per line. Needs assistly[log]."),
    ] = LogFormat.TEXT,
) -> None:
    """Publish due jobs, until SIGTERM or SIGINT.

    The first signal shuts the worker down gracefully: it claims nothing new, gives running jobs the grace
    time to finish, and exits with code 0, even if something hangs. A second signal ends it at once.
    WEBHOOK_SECRET and WEBHOOK_STATUS_URL are read from the environment and `.env`, like the settings of the
    storage.
    """
    from assistly.worker.signals import stop_on_signals

    owns_process = context.obj is True
    log_as_json(owns_process=owns_process) if log_format is LogFormat.JSON else log_as_text()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    end = ProcessEnd(grace)
    stop = _Stop(end)
    with (
        end.limited(owns_process=owns_process),
        stop_on_signals(stop, pass_on=False, restore=not owns_process),
    ):
        options: WorkerOptions = {
            "worker_id": worker_id,
            "concurrency": concurrency,
            "platform_concurrency": _limits(limit or []),
            "lease": _duration("--lease", lease),
            "grace": grace,
            "poll": poll,
            "timeout": timeout,
            "check_pause": check_pause,
            "check_for": check_for,
        }
        publishers = _publishers(publish, webhook_secret)
        for platform in options["platform_concurrency"] or {}:
            if platform not in publishers:
                raise typer.BadParameter(f"--limit names {platform!r}, but no --publish does")
        monitor, server = listening(listen) if listen is not None else (None, None)
        try:
            remark = logger.info if log_format is LogFormat.JSON else Output().remark
            _run(publishers, options, end, stop, monitor, remark, exponential=exponential, drain=drain)
        finally:
            if server is not None and not owns_process:  # otherwise it serves until the process ends
                server.close()


class _Stop:
    """What the first signal calls."""

    def __init__(self, end: ProcessEnd) -> None:
        self.worker: Worker | None = None
        self._end = end

    def __call__(self) -> None:
        self._end.begin()
        if self.worker is None:  # nothing is claimed yet
            raise SystemExit(0)
        self.worker.stop()


def _run(
    publishers: Mapping[str, Publisher],
    options: WorkerOptions,
    end: ProcessEnd,
    stop: _Stop,
    monitor: Monitor | None,
    remark: Callable[[str], None],
    *,
    exponential: bool,
    drain: bool,
) -> None:
    from assistly.storage.settings import load_settings
    from assistly.worker import Worker

    settings = load_settings()
    if exponential:
        options["retry"] = _exponential(settings)
    storage = _reached(settings, end, remark)
    try:
        worker = stop.worker = Worker(storage, publishers, **options)
        if monitor is not None:
            monitor.attach(storage, worker)
        if drain:
            worker.run_until_idle()
        else:
            worker.run(handle_signals=False)
    except BaseException:
        end.begin(1)
        raise
    finally:
        end.close(storage.close)


def _reached(settings: StorageSettings, end: ProcessEnd, remark: Callable[[str], None]) -> Storage:
    """Print the location of the storage, open it and apply migrations. Warn if the database is new."""
    from assistly.storage.engines.sql.migrations import PendingMigrations
    from assistly.storage.errors import MigrationError

    place = storage_place(settings)
    remark(f"storage: {place}")
    if not settings.auto_migrate:
        return _pinged(settings, end)
    try:
        return _pinged(settings.model_copy(update={"auto_migrate": False}), end)
    except MigrationError as error:
        storage = _pinged(settings, end)
        if isinstance(error, PendingMigrations) and error.is_new:
            logger.warning(
                "this storage is new and empty: %s. If you already have jobs, they are in another storage: "
                "check %s and the working directory of this worker",
                place,
                place_variables(settings),
            )
        return storage


def _pinged(settings: StorageSettings, end: ProcessEnd) -> Storage:
    from assistly.storage.errors import MigrationError
    from assistly.storage.factory import build_storage

    storage = build_storage(settings)
    try:
        end.call(storage.ping)  # a signal abandons it
    except MigrationError:
        storage.close()
        raise
    except Exception:
        end.begin(1)
        end.close(storage.close)
        raise
    return storage


def _publishers(given: Sequence[str], secret: str | None) -> dict[str, Publisher]:
    import sys

    from assistly.storage.variables import load_worker_settings
    from assistly.worker.publishers import load_publisher

    # Publishers in the working directory can be imported, as with `python -m`.
    if "" not in sys.path:
        sys.path.insert(0, "")
    settings = load_worker_settings()
    if secret is None and settings.webhook_secret is not None:
        secret = settings.webhook_secret.get_secret_value()
    url = settings.webhook_status_url
    status_url = None if url is None else url.get_secret_value()
    publishers: dict[str, Publisher] = {}
    for text in given:
        platform, spec = _pair("--publish", text, "PLATFORM=PUBLISHER")
        if platform in publishers:
            raise typer.BadParameter(f"--publish names {platform!r} twice")
        publishers[platform] = load_publisher(spec, webhook_secret=secret, webhook_status_url=status_url)
    return publishers


def _limits(given: Sequence[str]) -> dict[str, int]:
    from assistly.storage.addresses import without_password

    limits: dict[str, int] = {}
    for text in given:
        platform, number = _pair("--limit", text, "PLATFORM=N")
        if not (number.isascii() and number.isdecimal()):
            raise typer.BadParameter(f"--limit takes PLATFORM=N; got {without_password(text)}")
        limits[platform] = int(number)
    return limits


def _duration(option: str, seconds: float) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise typer.BadParameter(f"{option} takes a number of seconds; got {seconds}") from None


def _pair(option: str, text: str, form: str) -> tuple[str, str]:
    from assistly.storage.addresses import without_password

    platform, equals, value = text.partition("=")
    if not (platform and equals and value) or "://" in platform:  # the = may be part of a URL
        raise typer.BadParameter(f"{option} takes {form}; got {without_password(text)}")
    return platform, value


def _exponential(settings: StorageSettings) -> RetryPolicy:
    from assistly.storage.retry import ExponentialRetry

    fixed = settings.retry_policy()
    return ExponentialRetry(max_retries=fixed.max_retries, delay=fixed.delay)
