"""Reads all rows of a storage in pages of a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

from assistly.storage import Storage
from assistly.storage.addresses import place_of
from assistly.storage.engine.moving import MovingBackend
from assistly.storage.engine.transfer import MARKS, ROW_KINDS, Row, row_line
from assistly.storage.errors import Conflict
from assistly.storage.unfinished import COPY_COLLECTION

_MOST_ROWS = 4000
_FIRST_ROWS = 10
_BYTES = 4 * 2**20
_SAMPLE = 50
CONSECUTIVE = ("events", "jobs")
"""The kinds whose keys are numbers that are assigned in order."""

Step = Literal["copy", "compare", "export", "check", "import"]
Progress = Callable[[Step, str, int, int | None], None]
"""Called with the step, a kind of rows, how many more of them are done, and about how many the step has of
this kind (None: not known)."""

Closing = Callable[[Storage], None]
"""Called with a storage in the transaction that completes a copy or an import, after all rows."""


def no_progress(step: Step, kind: str, rows: int, expected: int | None) -> None:
    """Show no progress."""


def nothing_more(storage: Storage) -> None:
    """Write nothing after the rows."""


class Page:
    """Rows of one kind, as they are read, with keys above `after` and up to `through`.

    `expected`: about how many rows all pages have; None if not known.
    """

    def __init__(self, kind: str, after: Row | None, rows: Sequence[Row]) -> None:
        self.kind = kind
        self.after = after
        self.expected: int | None = None
        self.rows = rows
        self.through: Row | None = ROW_KINDS[kind].key(rows[-1]) if rows else None

    @cached_property
    def lines(self) -> Sequence[bytes]:
        """The rows as lines of JSON."""
        return [row_line(row) for row in self.rows]

    def row_bytes(self) -> int:
        """The approximate number of bytes per line."""
        some = self.rows[:: len(self.rows) // _SAMPLE + 1]
        return sum(len(row_line(row)) for row in some) // max(1, len(some)) + 1


def pages(backend: MovingBackend, kind: str, *, after: Row | None = None) -> Iterator[Page]:
    """Yield the rows of a kind with key > after. If rows have similar sizes, a page has 4 MiB at most."""
    if kind == MARKS:
        yield Page(kind, None, sorted(backend.read_rows(kind, after=None, limit=_MOST_ROWS)))
        return
    limit = _FIRST_ROWS
    expected: int | None = None
    while rows := backend.read_rows(kind, after=after, limit=limit):
        last = ROW_KINDS[kind].key(rows[-1])
        page = Page(kind, after, _without_progress(kind, rows))
        page.through = last
        if expected is None and kind in CONSECUTIVE:
            expected = _newest(backend, kind) - rows[0][0] + 1
        page.expected = expected
        yield page
        after = last
        limit = max(1, min(_MOST_ROWS, 4 * limit, _BYTES // page.row_bytes()))


def _newest(backend: MovingBackend, kind: str) -> int:
    marks: dict[str, Any] = dict(backend.read_rows(MARKS, after=None, limit=_MOST_ROWS))
    return marks[kind] or 0


def _without_progress(kind: str, rows: Sequence[Row]) -> Sequence[Row]:
    if kind != "documents":
        return rows
    return [row for row in rows if row[0] != COPY_COLLECTION]


def require_whole(backend: MovingBackend, engine: MovingBackend | None = None) -> None:
    """Raise Conflict if a copy into this storage is unfinished.

    The message names `engine` (default: `backend`, which may be a transaction of it).
    """
    if backend.documents.list(COPY_COLLECTION, after=None, limit=1):
        raise Conflict(
            f"a copy into {place_of(engine or backend)} is not finished: run the same command again to "
            "finish it first"
        )


def require_empty(backend: MovingBackend, engine: MovingBackend) -> None:
    """Like `require_whole`, but also raise Conflict if there is any record."""
    require_whole(backend, engine)
    require_no_rows(backend, engine)


def require_no_rows(backend: MovingBackend, engine: MovingBackend) -> None:
    """Raise Conflict if there is any record."""
    for kind in ROW_KINDS:
        if kind != MARKS and backend.read_rows(kind, after=None, limit=1):
            raise Conflict(
                f"{place_of(engine)} is not empty: it has {kind}. Give an empty database. Nothing was written"
            )


def marks_hold(source: Sequence[Row], target: Sequence[Row]) -> bool:
    """Whether the target will assign no number again that the source has assigned."""
    stored: dict[str, Any] = dict(target)
    return all(value is None or (stored.get(name) or 0) >= value for name, value in source)
