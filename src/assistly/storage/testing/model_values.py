"""What the parts of the model have in common."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TypeVar

from ..records import Json

T = TypeVar("T")


def canonical(value: Json) -> str:
    """Equal for equal JSON only: 1, 1.0 and true are three values."""
    return json.dumps(value, sort_keys=True)


def copied(value: T) -> T:
    return deepcopy(value)
