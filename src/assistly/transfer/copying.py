"""Copies a storage into another one, which may be on another engine, and compares the two."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from assistly.storage import Storage
from assistly.storage.addresses import place_of
from assistly.storage.engine.moving import MovingBackend
from assistly.storage.engine.protocol import StorageBackend
from assistly.storage.engine.transfer import LAST_PRUNE, MARKS, NUMBERED, ROW_KINDS, Row
from assistly.storage.engine.values import Document, JsonText
from assistly.storage.errors import ConfigurationError, Conflict, StorageCorrupt
from assistly.storage.unfinished import COPY_COLLECTION, COPY_KEY, unfinished_copy
from assistly.storage.validation import canonical

from .pages import (
    CONSECUTIVE,
    Closing,
    Page,
    Progress,
    marks_hold,
    no_progress,
    nothing_more,
    pages,
    require_no_rows,
    require_whole,
)

_OWN: tuple[Row, Row] = ((COPY_COLLECTION, ""), (COPY_COLLECTION, "\U0010ffff"))
COPY_EVENT = "operator.copy"
"""The type of the event that `assistly copy` records in its target."""

_MOST = 1000
_FEW = 20
_GROWING = {
    "documents": ("updated_at",),
    "sessions": ("updated_at",),
    "approvals": ("sequence", "decided_at"),
    "idempotency": ("sequence", "completed"),
    "locks": ("fence",),
    "snapshots": ("updated_at",),
    "jobs": ("claim", "updated_at"),
}
"""Columns that only grow while a record is used, the most important first."""


@dataclass(frozen=True, slots=True)
class CopiedKind:
    """How many rows of a kind there are on both sides, and the SHA-256 of their lines as read back.

    The digest is computed over the SHA-256 of each page. The lines of `marks` are those of the source as far
    as the target holds them: its numbers may be higher.
    """

    rows: int
    source_sha256: str
    target_sha256: str


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy did.

    `resumed`: it continued an earlier one. `repaired`: how many rows were rewritten or deleted because the
    source had changed meanwhile. `held`: nobody could write to the source during the last step.
    """

    resumed: bool
    held: bool
    repaired: int
    kinds: dict[str, CopiedKind]


def prepare(
    source: MovingBackend, target: MovingBackend, *, identity: str, progress: Progress = no_progress
) -> bool:
    """Do the long part of a copy: write the rows of a snapshot, while others write to the source.

    `copy` with the same `identity` continues from there, and so does another `prepare`. Returns whether this
    continued an earlier copy. Raises what `copy` raises.
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

    First the rows of a snapshot are written, page by page, while others write to the source. The last step
    blocks them (unless `hold_writers` is False), reads both sides, and rewrites what differs. `identity`
    names the source: with the same one, an interrupted copy continues. `closing` may write more to the
    target, after the comparison.

    Raises Conflict if the target is not empty and holds no unfinished copy of this source, if somebody else
    has written to it since the copy began, or if both are the same storage.
    """
    state = _first_pass(source, target, identity, progress)
    with ExitStack() as stack:
        view, is_held = _last_view(stack, source, hold_writers=hold_writers)
        state.require_no_new_numbers()
        compared: dict[str, _Compared] = {}
        differing: list[_Range] = []
        for kind in ROW_KINDS:
            compared[kind] = _compare_kind(view, target, kind, state, differing, progress)
        # Not earlier: nothing may be overwritten if somebody else has written to the target. The numbers come
        # first: after an interruption, they tell such writes from those made here.
        differing.sort(key=lambda each: each.kind != MARKS)
        for each in differing:
            compared[each.kind].target[each.page] = _repair(view, target, each, state)
        kinds = {kind: each.end(kind, target) for kind, each in compared.items()}
        # Before writers of the source continue: from here on, the target is complete.
        state.end(closing)
    return CopyReport(state.is_resumed, is_held, sum(each.changed for each in differing), kinds)


def _first_pass(
    source: MovingBackend, target: MovingBackend, identity: str, progress: Progress
) -> _Resumption:
    require_whole(source)
    state = _Resumption.begin(target, identity)
    state.require_other(source)
    kinds = [kind for kind in ROW_KINDS if kind != MARKS]
    state.require_no_new_numbers()
    for kind in kinds:
        state.require_nothing_beyond(kind)
    with source.snapshot() as view:
        # What others write to the target must get other numbers than what is copied.
        state.write(MARKS, sorted(view.read_rows(MARKS, after=None, limit=_MOST)), None, None)
        for kind in kinds:
            _copy_kind(view, kind, state, progress)
    return state


def _last_view(stack: ExitStack, source: MovingBackend, *, hold_writers: bool) -> tuple[MovingBackend, bool]:
    """What the last step reads, and whether writers are blocked: the role may lack the right for that."""
    if hold_writers:
        with suppress(ConfigurationError):
            return stack.enter_context(source.snapshot(hold_writers=True)), True
    return stack.enter_context(source.snapshot()), False


class _Resumption:
    """The progress of a copy: a document in the target, updated with each page that is written."""

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
                        f"{place_of(target)} holds an unfinished copy of {found.data['source']}: finish that "
                        "copy, or give an empty database"
                    )
                return cls(target, found, is_resumed=True)
            _require_no_finished_copy(tx, target)
            if unfinished_copy(tx) is not None:  # started meanwhile
                raise _rivals(target)
            require_no_rows(cast("MovingBackend", tx), target)
            data: dict[str, Any] = {"source": identity, "id": uuid.uuid4().hex, "done": {}}
            made = tx.documents.put(COPY_COLLECTION, COPY_KEY, _text(data), expected_version=0, now=tx.now())
            if made is None:
                raise _rivals(target)
            return cls(target, made, is_resumed=False)

    def require_other(self, source: MovingBackend) -> None:
        """Raise Conflict if the source is the target under another name."""
        found = source.documents.get(COPY_COLLECTION, COPY_KEY)
        if found is not None and found.data.get("id") == self._data.get("id"):
            if not self.is_resumed:
                self._target.documents.delete(COPY_COLLECTION, COPY_KEY)
            raise Conflict(f"{place_of(source)} and {place_of(self._target)} are the same storage")

    def after(self, kind: str) -> Row | None:
        """The key of the last row that was written; None if there is none."""
        found = self._data["done"].get(kind)
        return None if found is None else tuple(found)

    def require_nothing_beyond(self, kind: str) -> None:
        """Raise Conflict if the target has rows after those that the copy has written."""
        for row in _target_rows(self._target, kind, self.after(kind), None):
            self.refuse(kind, row)

    def require_no_new_numbers(self) -> None:
        """Raise Conflict if the target has assigned numbers."""
        known = self._data.get("marks", {})
        stored: dict[str, Any] = dict(self._target.read_rows(MARKS, after=None, limit=_MOST))
        for kind in NUMBERED:
            if kind == "events":  # a failed end may have used a number; rows with later numbers are found
                continue
            copied = self.after(kind) if kind in CONSECUTIVE else None
            if known and (stored[kind] or 0) > max([known[kind] or 0, *(copied or ())]):
                self._refuse(f"{kind} has assigned the number {stored[kind]}")

    def refuse(self, kind: str, row: Row) -> NoReturn:
        """Raise Conflict for a row that cannot come from the source."""
        key = ", ".join(str(value)[:80] for value in ROW_KINDS[kind].key(row))
        self._refuse(f"in {kind}, {key} has changed since it was copied")

    def _refuse(self, what: str) -> NoReturn:
        with self._going_on():  # another copy may have finished it meanwhile
            raise Conflict(
                f"somebody else has written to {place_of(self._target)} since the copy began: {what}. None "
                "of it was overwritten. Check whether anything was published from there, then empty it and "
                "copy again"
            )

    def write(self, kind: str, rows: Sequence[Row], after: Row | None, through: Row | None) -> None:
        """Write a range of rows and the progress of the copy, in one transaction."""
        with self._going_on() as tx:
            _write(cast("MovingBackend", tx), kind, rows, after, through)
            done = self._data["done"]
            if through is not None and through > (self.after(kind) or ()):
                done = {**done, kind: list(through)}
            data = {**self._data, "done": done}
            if kind == MARKS:
                data["marks"] = dict(rows)
            put = tx.documents.put(
                COPY_COLLECTION, COPY_KEY, _text(data), expected_version=self._version, now=tx.now()
            )
            if put is None:
                raise _rivals(self._target)
        self._data, self._version = data, put.version

    def end(self, closing: Closing) -> None:
        """Make the target usable."""
        with self._going_on() as tx:
            tx.documents.delete(COPY_COLLECTION, COPY_KEY)
            closing(Storage(tx, auto_prune=False))

    @contextmanager
    def _going_on(self) -> Iterator[StorageBackend]:
        """A transaction on the target. Raises Conflict if another process has continued the copy."""
        with self._target.transaction() as tx:
            found = tx.documents.get(COPY_COLLECTION, COPY_KEY, lock=True)
            if found is None or found.version != self._version:
                raise _rivals(self._target)
            yield tx


def _require_no_finished_copy(tx: StorageBackend, target: MovingBackend) -> None:
    """Raise Conflict if the target has the event of `assistly copy`."""
    for event in tx.events.list(event_type=COPY_EVENT, before=None, limit=1):
        source = event.payload.get("source") if isinstance(event.payload, dict) else None
        raise Conflict(
            f"{place_of(target)} holds a finished copy of {source}, made at "
            f"{event.created_at:%Y-%m-%d %H:%M:%S} UTC. Nothing was written. To copy again, give an empty "
            "database"
        )


def _copy_kind(source: MovingBackend, kind: str, state: _Resumption, progress: Progress) -> None:
    for page in pages(source, kind, after=state.after(kind)):
        state.require_nothing_beyond(kind)
        state.write(kind, page.rows, page.after, page.through)
        progress("copy", kind, len(page.rows), page.expected)


@dataclass(frozen=True, slots=True)
class _Range:
    """A range of keys in which the two sides differ: the page with the number `page`, counted from 0.

    `rows`: how many rows the source has there. `changed`: how many of them differ.
    """

    kind: str
    page: int
    after: Row | None
    through: Row | None
    rows: int
    changed: int


@dataclass(slots=True)
class _Compared:
    """The rows of a kind that the source has, and the SHA-256 of each page as it was read from both sides."""

    rows: int
    source: list[bytes]
    target: list[bytes]

    def add(self, page: Page, target: MovingBackend) -> bool:
        """Read the target's rows in the range of a page, and return whether they are equal."""
        self.rows += len(page.rows)
        self.source.append(_digest(page))
        self.target.append(_target_digest(target, page))
        return self.source[-1] == self.target[-1]

    def last(self, page: Page, changed: int) -> _Range:
        """The range of the last added page."""
        return _Range(page.kind, len(self.source) - 1, page.after, page.through, len(page.rows), changed)

    def end(self, kind: str, target: MovingBackend) -> CopiedKind:
        """Raises StorageCorrupt if the two differ."""
        if self.source != self.target:
            raise StorageCorrupt(
                f"the {kind} read back from {place_of(target)} differ from those of the source"
            )
        source, copied = (hashlib.sha256(b"".join(pages)).hexdigest() for pages in (self.source, self.target))
        return CopiedKind(self.rows, source, copied)


def _compare_kind(
    source: MovingBackend,
    target: MovingBackend,
    kind: str,
    state: _Resumption,
    differing: list[_Range],
    progress: Progress,
) -> _Compared:
    """Compare page by page, and add the ranges that differ.

    Raises Conflict for a row of the target that cannot come from the source.
    """
    found = _Compared(0, [], [])
    after: Row | None = None
    for page in pages(source, kind):
        is_same = found.add(page, target)
        if kind == MARKS or not is_same:
            # Always compare marks: even if the rows are equal, numbers might be assigned again.
            changed = 0 if kind == MARKS else _changed_rows(target, page, page.through, state)
            differing.append(found.last(page, changed))
        after = page.through
        progress("compare", kind, len(page.rows), page.expected)
    if kind != MARKS:
        beyond = Page(kind, after, [])
        if not found.add(beyond, target):
            differing.append(found.last(beyond, _changed_rows(target, beyond, None, state)))
    return found


def _changed_rows(target: MovingBackend, page: Page, through: Row | None, state: _Resumption) -> int:
    """Count the rows that differ from the page's with page.after < key <= through.

    Raises Conflict for a row of the target that cannot come from the source.
    """
    kind = ROW_KINDS[page.kind]
    missing = {kind.key(row): row for row in page.rows}
    done = state.after(page.kind) or ()
    changed = 0
    for row in _target_rows(target, page.kind, page.after, through):
        expected = missing.pop(kind.key(row), None)
        if row == expected:
            continue
        if _is_ahead(page.kind, row, expected) or (expected is None and kind.key(row) > done):
            state.refuse(page.kind, row)
        changed += 1
    return changed + len(missing)


def _is_ahead(kind: str, row: Row, expected: Row | None) -> bool:
    """Whether a row of the target is newer than that of the source."""
    if expected is None:
        return False
    columns = [ROW_KINDS[kind].place(name) for name in _GROWING.get(kind, ())]
    return [row[column] or 0 for column in columns] > [expected[column] or 0 for column in columns]


def _repair(source: MovingBackend, target: MovingBackend, each: _Range, state: _Resumption) -> bytes:
    """Rewrite a range, read it back, and return its SHA-256."""
    rows = source.read_rows(each.kind, after=each.after, limit=each.rows) if each.rows else []
    page = Page(each.kind, each.after, sorted(rows) if each.kind == MARKS else rows)
    state.write(each.kind, page.rows, each.after, each.through)
    return _target_digest(target, page)


def _digest(page: Page) -> bytes:
    return hashlib.sha256(b"".join(page.lines)).digest()


def _target_digest(target: MovingBackend, page: Page) -> bytes:
    """The SHA-256 of the target's rows in the range of a page; if there are too many, of the first ones."""
    if page.kind == MARKS:
        return _digest(
            Page(MARKS, None, _held_marks(page.rows, target.read_rows(MARKS, after=None, limit=_MOST)))
        )
    rows = target.read_rows(page.kind, after=page.after, limit=len(page.rows) + 2)
    key, through = ROW_KINDS[page.kind].key, page.through
    read = [row for row in rows if (through is None or key(row) <= through) and not _is_own(page.kind, row)]
    return _digest(Page(page.kind, page.after, read))


def _target_rows(target: MovingBackend, kind: str, after: Row | None, through: Row | None) -> Iterator[Row]:
    """The rows of the target with after < key <= through (None: no end)."""
    limit = _FEW
    while rows := target.read_rows(kind, after=after, limit=limit):
        for row in rows:
            after = ROW_KINDS[kind].key(row)
            if through is not None and after > through:
                return
            if not _is_own(kind, row):
                yield row


def _held_marks(source: Sequence[Row], stored: Sequence[Row]) -> list[Row]:
    """The stored marks, with the source's number in place of a higher one."""
    values: dict[str, Any] = dict(stored)
    return [
        mark if mark[0] != LAST_PRUNE and marks_hold([mark], stored) else (mark[0], values.get(mark[0]))
        for mark in source
    ]


def _write(
    target: MovingBackend, kind: str, rows: Sequence[Row], after: Row | None, through: Row | None
) -> None:
    """Write a range of rows. Keeps the document with the progress of the copy."""
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


def _text(value: Any) -> JsonText:
    return canonical("progress", value)


def _rivals(target: MovingBackend) -> Conflict:
    return Conflict(f"another process is copying into {place_of(target)}: run only one copy at a time")
