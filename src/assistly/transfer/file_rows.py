"""Detects rows that no export can have written, although each value has the type of its column."""

from __future__ import annotations

import json

from assistly.storage.engine.transfer import ROW_KINDS, Row
from assistly.storage.records import JobStatus
from assistly.storage.unfinished import COPY_COLLECTION

_JSON = {
    name: [place for place, column in enumerate(kind.columns) if column.type == "json"]
    for name, kind in ROW_KINDS.items()
}
_STATUSES = {"jobs": frozenset(JobStatus), "approvals": {"pending", "approved", "rejected", "expired"}}
_EMPTY = ("{}", "[]", None)


def row_problem(kind: str, row: Row, line: bytes) -> str | None:
    """What is wrong with the values of a row, given its line; None if nothing is.

    Checks that JSON columns are JSON, and that no text has NUL or a lone surrogate.
    """
    if kind in _STATUSES and row[1] not in _STATUSES[kind]:
        return f"a row of {kind} has the status {row[1][:80]!r}"
    if kind == "documents" and row[0] == COPY_COLLECTION:
        return "it has the document of an unfinished copy"
    # Only lines with an escape, or with the first byte of a surrogate in UTF-8, can have these.
    is_doubtful = b"\\u" in line or b"\xed" in line
    if is_doubtful and not all(map(_is_storable, row)):
        return f"a text in its {kind} has NUL or a lone surrogate"
    for place in _JSON[kind]:
        text = row[place]
        if text in _EMPTY:
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return f"a row of {kind} has {ROW_KINDS[kind].columns[place].name} that is not JSON"
        if is_doubtful and not _is_storable(json.dumps(value, ensure_ascii=False).replace("\\u0000", "\0")):
            return f"a text in its {kind} has NUL or a lone surrogate"
    return None


def _is_storable(value: object) -> bool:
    if not isinstance(value, str):
        return True
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
