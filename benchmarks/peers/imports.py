"""What importing the peers costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ..model import Contender, Round, Surroundings
from ..processes import milliseconds_of

_NAMES = ("huey", "procrastinate", "pgqueuer", "chancy", "dbos")


@contextmanager
def _importing(_: Surroundings, name: str) -> Iterator[Round]:
    yield partial(milliseconds_of, f"import {name}")


PEERS = {
    "import": tuple(
        Contender(f"import {name}", partial(_importing, name=name), role="peer", requires=(name,))
        for name in _NAMES
    )
}
