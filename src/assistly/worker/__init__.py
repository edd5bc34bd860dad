"""Workers that publish due jobs.

Names load their modules on first use, as those of `assistly.storage` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assistly.lazy import load_attribute

if TYPE_CHECKING:
    from .aio import AsyncWorker
    from .counts import JobsEnded, PublishDurations, WorkerNumbers
    from .events import EventKind, WorkerEvent
    from .health import WorkerHealth
    from .options import WorkerOptions
    from .publication import Publication
    from .publisher import (
        CheckResult,
        NotPosted,
        Permanent,
        Publisher,
        Retry,
        StillUnknown,
        Unknown,
        WasPosted,
    )
    from .worker import Worker

__all__ = [
    "AsyncWorker",
    "CheckResult",
    "EventKind",
    "JobsEnded",
    "NotPosted",
    "Permanent",
    "Publication",
    "PublishDurations",
    "Publisher",
    "Retry",
    "StillUnknown",
    "Unknown",
    "WasPosted",
    "Worker",
    "WorkerEvent",
    "WorkerHealth",
    "WorkerNumbers",
    "WorkerOptions",
]

_MODULES = {
    "aio": "AsyncWorker",
    "counts": "JobsEnded PublishDurations WorkerNumbers",
    "events": "EventKind WorkerEvent",
    "health": "WorkerHealth",
    "options": "WorkerOptions",
    "publication": "Publication",
    "publisher": "CheckResult NotPosted Permanent Publisher Retry StillUnknown Unknown WasPosted",
    "worker": "Worker",
}


def __getattr__(name: str) -> Any:
    return load_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
