"""`mirror`: what copying many events costs, and how it goes on after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from assistly.storage import Event, Storage, mirror, mirroring, open_storage

PAGE = 10
LONG = 1000.0


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "_PAGE", PAGE)
    monkeypatch.setattr(mirroring, "_TRANSACTION_SECONDS", 0)


@pytest.fixture
def source() -> Iterator[Storage]:
    with open_storage(engine="memory", auto_prune=False) as storage:
        yield storage


@pytest.fixture
def target() -> Iterator[Storage]:
    with open_storage(engine="memory", auto_prune=False) as storage:
        yield storage


class Calls:
    """How often an operation is called; `fails_at` makes one of these calls fail."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.count = 0
        self.fails_at = 0
        self._operation = getattr(owner, name)
        patch.setattr(owner, name, self._call)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        if self.count == self.fails_at:
            raise ConnectionError("on purpose")
        return self._operation(*args, **kwargs)


def fill(storage: Storage, count: int) -> None:
    storage.events.append_many(("type", number) for number in range(count))


def payloads(storage: Storage) -> list[Any]:
    return [event.payload for event in storage.events.read_after(0, limit=1000)]


def newest(storage: Storage) -> Any:
    logs = storage.snapshots.get("logs")
    assert logs is not None
    assert isinstance(logs.payload, dict)
    return logs.payload["events"]["records"][0]["payload"]


@pytest.mark.parametrize("count", [0, 1, PAGE, PAGE + 1, 30 * PAGE])
@pytest.mark.parametrize("hold", [0, LONG])
def test_what_is_derived_is_made_once(
    source: Storage, target: Storage, monkeypatch: pytest.MonkeyPatch, count: int, hold: float
) -> None:
    monkeypatch.setattr(mirroring, "_TRANSACTION_SECONDS", hold)
    fill(source, count)
    pages = Calls(monkeypatch, source.events, "read_after")
    lists = Calls(monkeypatch, source.events, "list")
    transactions = Calls(monkeypatch, target, "transaction")
    assert mirror(source, target) == count
    assert pages.count == count // PAGE + 1
    assert lists.count == 1
    assert transactions.count == (1 if hold else pages.count) + 1
    assert payloads(target) == list(range(count))


def test_an_interrupted_one_goes_on(
    source: Storage, target: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(source, 5)
    mirror(source, target)
    fill(source, 10 * PAGE)
    pages = Calls(monkeypatch, source.events, "read_after")
    pages.fails_at = 7
    with pytest.raises(ConnectionError):
        mirror(source, target)
    assert len(payloads(target)) == 5 + 6 * PAGE
    assert newest(target) == 4
    assert mirror(source, target) == 4 * PAGE
    assert payloads(target) == payloads(source)
    assert newest(target) == 10 * PAGE - 1


def test_ids_of_the_target_are_its_own(source: Storage, target: Storage) -> None:
    target.events.append_many(("other", None) for _ in range(7))
    fill(source, PAGE + 3)
    assert mirror(source, target) == PAGE + 3
    copied: list[Event] = target.events.read_after(7, limit=1000)
    assert [event.payload for event in copied] == list(range(PAGE + 3))
