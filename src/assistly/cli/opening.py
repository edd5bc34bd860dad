"""The storage that commands work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assistly.storage import Storage


def open_environment() -> Storage:
    """The storage of the environment. Drivers load here, so that `assistly --help` is fast."""
    from assistly.storage.factory import open_storage

    return open_storage(auto_prune=False)
