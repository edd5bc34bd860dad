"""What the tests of the page share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from assistly.storage import MemoryBackend, Storage, StorageBackend
from assistly.web import create_app
from web.browsing import Browser
from web.filling import Filled, fill


@pytest.fixture
def memory() -> Iterator[Storage]:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        yield storage


@pytest.fixture
def filled(memory: Storage) -> Filled:
    return fill(memory)


@pytest.fixture
def storage(make_backend: Callable[[int], StorageBackend]) -> Iterator[Storage]:
    """One on each engine."""
    with Storage(make_backend(4), auto_prune=False) as storage:
        yield storage


@pytest.fixture
def browser(memory: Storage) -> Browser:
    """At this machine, where changes are allowed."""
    return Browser(create_app(memory, allow_changes=True))
