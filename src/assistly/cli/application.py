"""The application that runs the commands."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from typing import Annotated

import typer

from .commands import CommandGroup
from .output import printable

app = typer.Typer(
    name="assistly",
    cls=CommandGroup,
    help="Manage the storage that the environment configures (STORAGE_ENGINE and related variables).\n\n"
    "Exit codes: 0 success, 1 failure, 2 wrong usage, 3 the storage cannot be reached.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_NOT_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
"""The errors of stdout and stderr. A closed pipe is not an error: the command ends silently."""


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


def run(*, owns_process: bool) -> None:
    """See `assistly.cli.main`."""
    from assistly.storage.errors import OutcomeUnknown, StorageError, StorageUnavailable

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="assistly", obj=owns_process)
    except StorageError as error:
        typer.echo(f"assistly: {printable(' '.join(str(error).split()))}", err=True)
        sys.exit(3 if isinstance(error, StorageUnavailable | OutcomeUnknown) else 1)
    except OSError as error:
        if error.filename is not None or error.errno not in _NOT_WRITTEN:
            typer.echo(f"assistly: {printable(str(error))}", err=True)
            sys.exit(1)
        with suppress(OSError):
            typer.echo(
                f"assistly: could not write the output ({error.strerror}); the rest may be done",
                err=True,
            )
        if owns_process:  # otherwise the interpreter writes it again at exit, and prints a traceback
            sys.stdout = sys.stderr = None
        sys.exit(1)
