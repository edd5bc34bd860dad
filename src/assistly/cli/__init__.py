"""The operator's command `assistly`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .demo.command import demo as run_demo
from .operate import dead_letters, migrate, prune, replay, status
from .work import worker

app = typer.Typer(
    name="assistly",
    help="Look after the storage of the environment (STORAGE_ENGINE and the variables that go with it).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(run_demo)
for command in (worker, status, migrate, prune, dead_letters, replay):
    app.command()(command)


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


def main() -> None:
    """Run the command of `sys.argv`; a mistake of the user's is one line and a non-zero exit code."""
    from assistly.storage.errors import StorageError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except StorageError as error:
        sys.exit(f"assistly: {' '.join(str(error).split())}")
