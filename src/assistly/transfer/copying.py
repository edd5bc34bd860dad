"""Copies a storage into another one, which may be on another engine, and compares the two."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from assistly.storage import Storage
from assistly.storage.engine.moving import MovingBackend
from assistly.storage.engine.protocol import StorageBackend
from assistly.storage.engine.transfer import MARKS, ROW_KINDS, Row
from assistly.storage.engine.values import Document, JsonText
from assistly.storage.errors import ConfigurationError, Conflict, StorageCorrupt
from assistly.storage.unfinished import COPY_COLLECTION, COPY_KEY
from assistly.storage.validation import canonical

from .pages import (
    Closing,
    Page,
    Progress,
    marks_hold,
    no_progress,
    nothing_more,
    pages,
    require_empty,
    require_whole,
)

_OWN: tuple[Row, Row] = ((COPY_COLLECTION, ""), (COPY_COLLECTION, "\U0010ffff"))
_MOST = 1000


@dataclass(frozen=True, slots=True)
class CopiedKind:
    """How many rows of a kind there are on both sides, and the SHA-256 of their lines as read back."""

    rows: int
    source_sha256: str
    target_sha256: str


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy did. `resumed`: it went on with an earlier one. `repaired`: rows that were written again
    since the source had changed meanwhile. `held`: nobody wrote to the source in the last step."""

    resumed: bool
    held: bool
    repaired: int
    kinds: dict[str, CopiedKind]


def prepare(
    source: MovingBackend, target: MovingBackend, *, identity: str, progress: Progress = no_progress
) -> bool:
    """Do what takes long of a copy: write the rows of one moment, while others go on writing to the source.

    `copy` with the same `identity` goes on from there, and so does another `prepare`. Returns whether this
    went on with an earlier one. Raises as `copy` does.
    """
    return _first_pass(source, target, identity, progress).is_resumed


def copy(
    source: MovingBackend,
    target: MovingBackend,
    *,
    identity: str,
    hold_writers: bool = True,
    closing: Closing = nothing_more,
    progress: Progress = no_progress,
) -> CopyReport:
    """Copy all rows, and compare what is read back from both sides.

    First the rows of one moment are written, page by page, while others go on writing to the source. The
    last step holds them off (unless `hold_writers` is False), reads both sides, and rewrites what differs.
    `identity` names the source: a copy that was interrupted goes on if it is called with the same one.
    `closing` may write more to the target, after the comparison.

    Raises Conflict if the target is not empty, and holds no unfinished copy of this source, and if the two
    are the same storage.
    """
    state = _first_pass(source, target, identity, progress)
    with ExitStack() as stack:
        view, is_held = _last_view(stack, source, hold_writers=hold_writers)
        repaired = 0
        kinds: dict[str, CopiedKind] = {}
        for kind in ROW_KINDS:
            kinds[kind], changed = _compare_kind(view, target, kind, state, progress)
            repaired += changed
        # Before the writers of the source go on: from here on the target is whole.
        state.end(closing)
    return CopyReport(state.is_resumed, is_held, repaired, kinds)


def _first_pass(
    source: MovingBackend, target: MovingBackend, identity: str, progress: Progress
) -> _Resumption:
    require_whole(source)
    state = _Resumption.begin(target, identity)
    state.require_other(source)
    with source.snapshot() as view:
        for kind in ROW_KINDS:
            if kind != MARKS:
                _copy_kind(view, kind, state, progress)
    return state


def _last_view(stack: ExitStack, source: MovingBackend, *, hold_writers: bool) -> tuple[MovingBackend, bool]:
    """What the last step reads, and whether nobody writes meanwhile: a role may lack the right for it."""
    if hold_writers:
        with suppress(ConfigurationError):
            return stack.enter_context(source.snapshot(hold_writers=True)), True
    return stack.enter_context(source.snapshot()), False


class _Resumption:
    """How far a copy is: a document in the target, which changes with each page that is written."""

    def __init__(self, target: MovingBackend, document: Document, *, is_resumed: bool) -> None:
        self._target = target
        self._version = document.version
        self._data: dict[str, Any] = document.data
        self.is_resumed = is_resumed

    @classmethod
    def begin(cls, target: MovingBackend, identity: str) -> _Resumption:
        with target.transaction() as tx:
            found = tx.documents.get(COPY_COLLECTION, COPY_KEY, lock=True)
            if found is not None:
                if found.data["source"] != identity:
                    raise Conflict(
                        f"{target!r} holds an unfinished copy of {found.data['source']}: go on with that "
                        "one, or give an empty database"
                    )
                return cls(target, found, is_resumed=True)
            require_empty(_view(tx), target)
            data: dict[str, Any] = {"source": identity, "id": uuid.uuid4().hex, "done": {}}
            made = tx.documents.put(COPY_COLLECTION, COPY_KEY, _text(data), expected_version=0, now=tx.now())
            if made is None:
                raise _rivals(target)
            return cls(target, made, is_resumed=False)

    def require_other(self, source: MovingBackend) -> None:
        """Raise Conflict if the source is the target, of which the name may be another one."""
        found = source.documents.get(COPY_COLLECTION, COPY_KEY)
        if found is not None and found.data.get("id") == self._data.get("id"):
            if not self.is_resumed:
                self._target.documents.delete(COPY_COLLECTION, COPY_KEY)
            raise Conflict(f"{source!r} and {self._target!r} are the same storage")

    def after(self, kind: str) -> Row | None:
        """The key of the last row that is written; None for none."""
        found = self._data["done"].get(kind)
        return None if found is None else tuple(found)

    def write(self, page: Page) -> None:
        """Write a page, and how far the copy is then: both or nothing."""
        with self._target.transaction() as tx:
            _write(_view(tx), page.kind, page.rows, page.after, page.through)
            done = {**self._data["done"], page.kind: list(page.through or ())}
            data = {**self._data, "done": done}
            put = tx.documents.put(
                COPY_COLLECTION, COPY_KEY, _text(data), expected_version=self._version, now=tx.now()
            )
            if put is None:
                raise _rivals(self._target)
        self._data, self._version = data, put.version

    def repair(self, kind: str, rows: Sequence[Row], after: Row | None, through: Row | None) -> None:
        """Write a range of rows once more."""
        with self._going_on() as tx:
            _write(_view(tx), kind, rows, after, through)

    def end(self, closing: Closing) -> None:
        """Make the target a storage that may be used."""
        with self._going_on() as tx:
            tx.documents.delete(COPY_COLLECTION, COPY_KEY)
            closing(Storage(tx, auto_prune=False))

    @contextmanager
    def _going_on(self) -> Iterator[StorageBackend]:
        """A transaction on the target. Raises Conflict if another process has gone on with the copy."""
        with self._target.transaction() as tx:
            found = tx.documents.get(COPY_COLLECTION, COPY_KEY, lock=True)
            if found is None or found.version != self._version:
                raise _rivals(self._target)
            yield tx


def _copy_kind(source: MovingBackend, kind: str, state: _Resumption, progress: Progress) -> None:
    for page in pages(source, kind, after=state.after(kind)):
        state.write(page)
        progress("copy", kind, len(page.rows), page.expected)


def _compare_kind(
    source: MovingBackend, target: MovingBackend, kind: str, state: _Resumption, progress: Progress
) -> tuple[CopiedKind, int]:
    """Compare page by page, and write again what differs. Returns the digests, and how many were written."""
    digests = hashlib.sha256(), hashlib.sha256()
    rows = repaired = 0
    after: Row | None = None
    for page in pages(source, kind):
        if kind == MARKS:
            # Always: the rows alone may make the numbers look right, and yet they would be given out again.
            state.repair(kind, page.rows, page.after, page.through)
        found = _lines(target, page)
        if found is None:
            state.repair(kind, page.rows, page.after, page.through)
            repaired += len(page.rows)
            found = _lines(target, page)
            if found is None:
                raise StorageCorrupt(
                    f"the {kind} that are read back from {target!r} are not those of the source"
                )
        digests[0].update(b"".join(page.lines))
        digests[1].update(found)
        rows += len(page.rows)
        after = page.through
        progress("compare", kind, len(page.rows), page.expected)
    if kind != MARKS and _is_more(target, kind, after):
        state.repair(kind, [], after, None)
    return CopiedKind(rows, digests[0].hexdigest(), digests[1].hexdigest()), repaired


def _lines(target: MovingBackend, page: Page) -> bytes | None:
    """The lines of the target's rows in the range of a page; None if they differ from the page's."""
    if page.kind == MARKS:
        stored = sorted(target.read_rows(MARKS, after=None, limit=_MOST))
        return b"".join(page.lines) if _same_marks(page.rows, stored) else None
    rows = target.read_rows(page.kind, after=page.after, limit=len(page.rows) + 2)
    through = page.through or ()
    kind = ROW_KINDS[page.kind]
    read = Page(
        page.kind,
        page.after,
        [row for row in rows if kind.key(row) <= through and not _is_own(page.kind, row)],
    )
    lines = b"".join(read.lines)
    return lines if lines == b"".join(page.lines) else None


def _same_marks(source: Any, stored: Any) -> bool:
    times = [dict(marks)["pruned_at"] for marks in (source, stored)]
    return times[0] == times[1] and marks_hold(source, stored)


def _write(
    target: MovingBackend, kind: str, rows: Sequence[Row], after: Row | None, through: Row | None
) -> None:
    """Write a range of rows. Of documents, the one that tells how far the copy is stays."""
    if kind != "documents":
        target.write_rows(kind, rows, after=after, through=through)
        return
    if after is None or after < _OWN[0]:
        end = _OWN[0] if through is None else min(through, _OWN[0])
        below = [row for row in rows if row[:2] <= _OWN[0]]
        target.write_rows(kind, below, after=after, through=end)
    if through is None or through > _OWN[1]:
        begin = _OWN[1] if after is None else max(after, _OWN[1])
        above = [row for row in rows if row[:2] > _OWN[1]]
        target.write_rows(kind, above, after=begin, through=through)


def _is_own(kind: str, row: Row) -> bool:
    return kind == "documents" and row[0] == COPY_COLLECTION


def _is_more(target: MovingBackend, kind: str, after: Row | None) -> bool:
    rows = target.read_rows(kind, after=after, limit=2)
    return any(not _is_own(kind, row) for row in rows)


def _view(tx: Any) -> MovingBackend:
    view: MovingBackend = tx
    return view


def _text(value: Any) -> JsonText:
    return canonical("progress", value)


def _rivals(target: MovingBackend) -> Conflict:
    return Conflict(f"another process copies into {target!r} at the same time: let one of them do it")
