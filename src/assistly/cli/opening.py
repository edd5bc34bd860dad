"""Opens the storage for a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistly.storage import Storage


def open_environment() -> Storage:
    """Open the storage that the environment describes. It imports here, so that `--help` is fast."""
    from assistly.storage.factory import open_storage

    return open_storage(auto_prune=False)
