"""`assistly conformance`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer


def conformance(
    engine: Annotated[
        str, typer.Argument(help="memory, sqlite, postgres or the name of a plug-in, as in STORAGE_ENGINE.")
    ],
) -> None:
    """Run the contract suite on an engine, and report what passed, its traits and the time.

    The engine takes its settings from the environment. Name a database of its own there, since the suite
    writes to it and expects to be alone. The exit code is 0 if everything passed, else 1.
    """
    missing = [module for module in ("pytest", "hypothesis") if find_spec(module) is None]
    if missing:
        from assistly.storage.errors import ConfigurationError

        raise ConfigurationError(
            f"the contract suite needs {' and '.join(missing)}: python -m pip install 'assistly[contract]'"
        )
    from assistly.storage.testing.conformance import run

    raise typer.Exit(0 if run(engine) else 1)
