"""`assistly conformance`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer


def conformance(
    engines: Annotated[
        list[str],
        typer.Argument(
            metavar="ENGINE",
            help="memory, sqlite, postgres, the name of a plug-in as in STORAGE_ENGINE, or module:callable. "
            "The callable takes the path of a folder and returns an engine that keeps its data there.",
        ),
    ],
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting of the engine, such as sqlite_path={place}/data. {place} is replaced by "
            "a new folder, {name} by a new name. Repeatable.",
        ),
    ] = None,
    select: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Run the tests that match, as pytest's -k does.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown.")] = False,
) -> None:
    """Run the contract suite on engines, and report the results, the traits and the time of each.

    The suite deletes everything. It creates databases of its own on SQLite and Postgres; for other engines,
    use settings that name an empty database. On Postgres, the new schemas are kept: drop those whose names
    begin with assistly_conformance. The exit code is 0 if everything passed, else 1.
    """
    missing = [module for module in ("pytest", "hypothesis") if find_spec(module) is None]
    if missing:
        from assistly.storage.errors import ConfigurationError

        raise ConfigurationError(
            f"the contract suite needs {' and '.join(missing)}: python -m pip install 'assistly[contract]'"
        )
    from assistly.storage.testing import conformance as suite

    # Engines in the working directory can be imported, as with `python -m`.
    sys.path.insert(0, str(Path.cwd()))
    settings = dict(_key_and_value(text) for text in setting) if setting else None
    reports = [suite.run(engine, settings=settings, select=select) for engine in engines]
    if markdown:
        print(suite.markdown(reports), end="")
    else:
        print("\n\n".join(map(suite.render, reports)))
    raise typer.Exit(0 if all(report.passed for report in reports) else 1)


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"--setting takes KEY=VALUE; got {text!r}")
    return key, value
