"""What `import assistly.storage` costs, as the time of whole processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from ..model import Contender, Figure, Round, Row, Surroundings
from ..processes import milliseconds_of

_FLOOR = "import json, dataclasses, typing, datetime"


@contextmanager
def _importing(_: Surroundings, statement: str) -> Iterator[Round]:
    yield partial(milliseconds_of, statement)


def _contender(statement: str, role: Literal["floor", "ours", "reference"] = "ours") -> Contender:
    return Contender(statement, partial(_importing, statement=statement), role=role)


ROWS = (
    Row(
        "import",
        "import, no engine opened",
        (Figure("ms", 1.3, more_is_better=False),),
        {"tiny": 1, "quick": 3, "full": 5},
        (
            _contender(_FLOOR, "floor"),
            _contender("import assistly.storage"),
            _contender("from assistly.storage import Storage", "reference"),
        ),
    ),
)
