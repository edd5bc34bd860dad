"""What importing the peers costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ..model import Contender, Environment, Measure
from ..processes import cpu_milliseconds

_NAMES = ("huey", "procrastinate", "pgqueuer", "chancy")


@contextmanager
def _importing(environment: Environment, name: str) -> Iterator[Measure]:
    yield partial(cpu_milliseconds, lambda: f"import {name}", environment.folder / "compiled")


PEERS = {
    "import": tuple(
        Contender(f"import {name}", partial(_importing, name=name), role="peer", requires=(name,))
        for name in _NAMES
    )
}
