"""A publisher that prints one line of JSON per job."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from .json_lines import as_line

if TYPE_CHECKING:
    from assistly.storage.records import Job

_mutex = threading.Lock()


def publish(job: Job) -> None:
    """Print a job as one line, and flush."""
    line = as_line(job).decode()
    with _mutex:
        sys.stdout.write(line)
        sys.stdout.flush()
