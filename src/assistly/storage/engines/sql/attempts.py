"""Failed attempts, as the column `attempts` holds them."""

from __future__ import annotations

from typing import Any

from ...records import Attempt
from .store import from_microseconds

ATTEMPT_ERROR_LENGTH = 4096


def decoded_attempt(stored: dict[str, Any]) -> Attempt:
    return Attempt(stored["number"], from_microseconds(stored["at"]), stored["worker_id"], stored["error"])
