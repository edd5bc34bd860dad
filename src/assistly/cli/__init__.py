"""The command `assistly`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from assistly.lazy import load_attribute

if TYPE_CHECKING:
    from .application import app

__all__ = ["app", "main"]

_EXTRA = ("typer", "click", "rich")
"""The modules that the extra `cli` installs."""


def main(*, owns_process: bool = True) -> None:
    """Run the command in `sys.argv`, and exit the process. A StorageError is printed as one line on stderr.

    The exit code is 0 on success, 1 on failure, 2 for wrong usage, and 3 if the storage cannot be reached. It
    is also 1 if the output could not be written, and if the extra `cli` is missing.

    `owns_process`: whether the process runs nothing else. If so, `assistly worker` exits a second after the
    grace time, whatever still runs. Pass False if you call this from your own program. Default: True.
    """
    try:
        from .application import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        advice = "python -m pip install 'assistly[cli]'"
        print(f"assistly: the command needs {error.name}: {advice}", file=sys.stderr)
        sys.exit(1)
    run(owns_process=owns_process)


def __getattr__(name: str) -> Any:
    return load_attribute(__name__, {"application": "app"}, name)
