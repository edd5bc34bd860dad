"""Workers that publish due jobs.

Names load their modules on first use, as those of `assistly.storage` do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aio import AsyncWorker
    from .options import WorkerOptions
    from .publisher import Permanent, Publisher, Retry, Unknown
    from .worker import Worker

__all__ = ["AsyncWorker", "Permanent", "Publisher", "Retry", "Unknown", "Worker", "WorkerOptions"]

_HOMES = {
    "AsyncWorker": "aio",
    "Permanent": "publisher",
    "Publisher": "publisher",
    "Retry": "publisher",
    "Unknown": "publisher",
    "Worker": "worker",
    "WorkerOptions": "options",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
