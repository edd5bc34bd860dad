"""The command `assistly`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import (
    approvals,
    config,
    conformance,
    doctor,
    events,
    job_commands,
    jobs,
    maintenance,
    platforms,
    schedules,
    sessions,
    status,
    transfer,
    why,
    worker,
)
from .demo import command as demo_command
from .output import printable

app = typer.Typer(
    name="assistly",
    help="Look after the storage of the environment (STORAGE_ENGINE and the variables that go with it).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo_command.demo,
    worker.worker,
    status.status,
    why.why,
    config.config,
    doctor.doctor,
    maintenance.migrate,
    maintenance.prune,
    maintenance.maintain,
    transfer.export,
    transfer.import_,
    transfer.copy,
    conformance.conformance,
):
    app.command(command.__name__.strip("_").replace("_", "-"))(command)
for group in (
    jobs.jobs,
    approvals.approvals,
    platforms.platforms,
    schedules.schedules,
    sessions.sessions,
    events.events,
):
    app.add_typer(group)
for old_name in (jobs.dead_letters, job_commands.replay, job_commands.resolve, job_commands.cancel):
    app.command(hidden=True)(old_name)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"assistly {version('assistly')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(*, owns_process: bool = True) -> None:
    """Run the command in `sys.argv`. A StorageError is printed as one line on stderr.

    The exit code is 0 if it is done, 1 if not, 2 for wrong usage, and 3 if the storage cannot be reached.

    `owns_process`: whether the process has nothing else to do. Then `assistly worker` ends it a second after
    the grace time, whatever still runs. A program that calls this for itself passes False.
    """
    from assistly.storage.errors import OutcomeUnknown, StorageError, StorageUnavailable

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app(obj=worker.OWNS_PROCESS if owns_process else None)
    except StorageError as error:
        typer.echo(f"assistly: {printable(' '.join(str(error).split()))}", err=True)
        sys.exit(3 if isinstance(error, StorageUnavailable | OutcomeUnknown) else 1)
