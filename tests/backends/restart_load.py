"""Writers that go on while a server comes and goes, and remember what each call told them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum, auto
from itertools import count
from typing import NamedTuple

from assistly.storage import Event, Job, NewJob, OutcomeUnknown, Storage, StorageUnavailable

PATIENCE = 60.0
PUBLISHED = "x"
FAR = datetime(2100, 1, 1, tzinfo=UTC)
_PAGE = 1000
_PACE = 0.004


class Word(Enum):
    """What the caller was told in the end."""

    STORED = auto()
    REFUSED = auto()
    UNKNOWN = auto()


class Kind(NamedTuple):
    """`rows`: how many each call stores. `keyed`: what may be repeated until it is known to be stored."""

    call: Callable[[Storage, str], None]
    rows: int
    keyed: bool = False


def _schedule(storage: Storage, key: str) -> None:
    storage.queue.schedule(PUBLISHED, key, idempotency_key=key)


def _schedule_many(storage: Storage, key: str) -> None:
    storage.queue.schedule_many(
        [NewJob("later", key, FAR, idempotency_key=f"{key}/{number}") for number in range(3)]
    )


def _append(storage: Storage, key: str) -> None:
    storage.events.append("written", key)


def _register(storage: Storage, key: str) -> None:
    assert storage.nonces.register(key), f"{key} was written behind the caller's back"


def _both(storage: Storage, key: str) -> None:
    with storage.transaction() as tx:
        _register(tx, key)
        _append(tx, key)


def _read(storage: Storage, key: str) -> None:
    try:
        storage.events.read_after(0, limit=1)
        storage.sessions.get(key)
    except OutcomeUnknown as error:
        raise AssertionError("a read has no outcome to be unknown") from error


KINDS = {
    "schedule": Kind(_schedule, 1, keyed=True),
    "schedule_many": Kind(_schedule_many, 3, keyed=True),
    "append": Kind(_append, 1),
    "register": Kind(_register, 1),
    "both": Kind(_both, 2),
    "read": Kind(_read, 0),
}


class Writer:
    def __init__(self, storage: Storage, name: str, stop: threading.Event) -> None:
        self.words: dict[str, Word] = {}
        self.told: Counter[Word] = Counter()
        self._storage = storage
        self._name = name
        self._stop = stop

    def run(self) -> None:
        names = [*KINDS]
        for number in count():
            if self._stop.wait(_PACE):
                return
            name = names[number % len(names)]
            key = f"{name} {self._name} {number}"
            word = self.words[key] = self._call(KINDS[name], key)
            self.told[word] += 1

    def has_reached(self, stored: int) -> bool:
        return self.told[Word.STORED] >= stored

    def _call(self, kind: Kind, key: str) -> Word:
        in_doubt = False
        while True:
            try:
                kind.call(self._storage, key)
            except StorageUnavailable:
                if not in_doubt:
                    return Word.REFUSED
            except OutcomeUnknown:
                if not kind.keyed:
                    return Word.UNKNOWN
                self.told[Word.UNKNOWN] += 1
                in_doubt = True
            else:
                return Word.STORED


def lies(storage: Storage, words: dict[str, Word]) -> dict[str, tuple[Word, int]]:
    """The calls whose rows are not what the caller was told, with the number of them."""
    rows = _rows(storage, words)
    return {key: (word, rows[key]) for key, word in words.items() if rows[key] not in _possible(key, word)}


def _possible(key: str, word: Word) -> set[int]:
    whole = KINDS[key.split()[0]].rows
    return {Word.STORED: {whole}, Word.REFUSED: {0}, Word.UNKNOWN: {0, whole}}[word]


def _rows(storage: Storage, keys: dict[str, Word]) -> Counter[str]:
    rows = Counter(job.content for job in all_jobs(storage))
    rows.update(str(event.payload) for event in _all_events(storage))
    rows.update(key for key in keys if storage.nonces.seen(key))
    return rows


def all_jobs(storage: Storage, platform: str | None = None) -> Iterator[Job]:
    page = storage.queue.list(platform=platform, limit=_PAGE)
    while page:
        yield from page
        page = storage.queue.list(platform=platform, after=page[-1], limit=_PAGE)


def _all_events(storage: Storage) -> Iterator[Event]:
    """As a reader that follows meets them."""
    page = storage.events.read_after(0, limit=_PAGE)
    while page:
        yield from page
        page = storage.events.read_after(page[-1], limit=_PAGE)
