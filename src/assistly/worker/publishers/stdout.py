"""One line of JSON on the standard output for each job."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from . import as_line

if TYPE_CHECKING:
    from assistly.storage.records import Job

_one_at_a_time = threading.Lock()


def publish(job: Job) -> None:
    line = as_line(job).decode()
    with _one_at_a_time:
        sys.stdout.write(line)
        sys.stdout.flush()
