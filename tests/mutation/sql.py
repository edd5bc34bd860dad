"""Edits inside the SQL of string literals.

A literal is scanned as it is written, so that offsets are those of the source on every version of Python.
What stands in the braces of an f-string counts as one opaque word of SQL; strings inside it are scanned
on their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .edits import Edit

_OPENING = re.compile(r"""([rRbBuUfF]{0,2})(\"\"\"|'''|"|')""")
_HOLE = "\x01"

_REPLACED = [
    ("lt-le", r"(?<= )<(?= )", "<="),
    ("le-lt", r"(?<= )<=(?= )", "<"),
    ("gt-ge", r"(?<= )>(?= )", ">="),
    ("ge-gt", r"(?<= )>=(?= )", ">"),
    ("is-not-null", r"\bIS NULL\b", "IS NOT NULL"),
    ("is-null", r"\bIS NOT NULL\b", "IS NULL"),
    ("or-and", r"\bOR\b(?! REPLACE)", "AND"),
    ("not", r"\bNOT (?!NULL|MATERIALIZED|EXISTS [a-z])", ""),
    ("not-exists", r"\bNOT EXISTS(?= \()", "EXISTS"),
    ("desc", r" DESC\b", ""),
    ("skip-locked", r" ?\bSKIP LOCKED\b", ""),
    ("for-update", r" ?\bFOR (?:NO KEY )?UPDATE(?: OF \w+)?(?: SKIP LOCKED)?", ""),
    ("limit", rf"\bLIMIT [\w{_HOLE}:]+", ""),
    ("coalesce-first", rf"\bcoalesce\(([\w.{_HOLE}:]+), [\w.{_HOLE}:]+\)", r"\1"),
    ("coalesce-swap", rf"\bcoalesce\(([\w.{_HOLE}:]+), ([\w.{_HOLE}:]+)\)", r"coalesce(\2, \1)"),
    ("plus-one", r"\+ 1\b", "+ 0"),
    ("plus-minus", r"(?<= )\+ (?!1\b)", "- "),
    ("max-min", r"\bmax\(", "min("),
    ("min-max", r"\bmin\(", "max("),
    ("greatest", r"\bgreatest\(", "least("),
    ("least", r"\bleast\(", "greatest("),
    ("true", r"\bTRUE\b", "FALSE"),
    ("false", r"\bFALSE\b", "TRUE"),
    ("distinct", r"\bDISTINCT ", ""),
    ("on-conflict", r"\bON CONFLICT\b[^\"]*?\bDO NOTHING\b", ""),
    ("status", r"'scheduled', 'retrying'", "'scheduled'"),
    ("immediate", r"\bBEGIN IMMEDIATE\b", "BEGIN"),
    ("order", r"\bORDER BY\b[^()]*?(?=\bLIMIT\b|\bFOR\b|\)|$|\n)", ""),
    ("reverse", rf"(?<=ORDER BY )[\w.{_HOLE}]+(?=,| LIMIT|\s*$|\n)(?! DESC)", r"\g<0> DESC"),
    ("tie", rf"(?<=ORDER BY )([\w.{_HOLE}]+(?: DESC)?), [\w.{_HOLE}]+(?: DESC)?", r"\1"),
]
_COMPILED = [(name, re.compile(pattern, re.MULTILINE), new) for name, pattern, new in _REPLACED]

_EQUALS = re.compile(rf"(?<=[\w.{_HOLE}]) = (?=[\w:%{_HOLE}'])")
_CLAUSE = re.compile(r"\b(SET|WHERE|AND|OR|ON|WHEN)\b")
_AND = re.compile(r"\bAND\b")
_END_OF_CONDITION = re.compile(r"\b(AND|OR|ORDER|RETURNING|GROUP|LIMIT|FOR|ON|THEN|UNION)\b")
_SET = re.compile(r"\bSET\b(?! \()")
_END_OF_SET = re.compile(r"\b(WHERE|FROM|RETURNING)\b")


def sql_edits(literal: str, start: int) -> Iterator[Edit]:
    """The edits of an expression of strings, whose source text begins at the offset `start`."""
    for begin, body, nested in _literals(literal, start):
        masked = _masked(body, begin, nested)
        for edit in _edits(masked):
            new = _unmask(edit, masked, body)
            if body[edit.start : edit.end] != new:
                yield Edit(begin + edit.start, begin + edit.end, new, f"sql-{edit.operator}")


def _literals(text: str, start: int) -> Iterator[tuple[int, str, list[tuple[int, int]]]]:
    """Each literal: where its content begins, the content, and the spans of its outermost braces."""
    at = 0
    while (opening := _OPENING.search(text, at)) is not None:
        prefix, quotes = opening[1].lower(), opening[2]
        begin = at = opening.end()
        depth, opened, holes = 0, 0, []
        while depth or not text.startswith(quotes, at):
            if at >= len(text):
                return
            char = text[at]
            if char == "\\" and not depth and "r" not in prefix:
                at += 2
                continue
            if "f" in prefix and char in "{}":
                if not depth and text[at : at + 2] in ("{{", "}}"):
                    at += 2
                    continue
                if char == "{" and not depth:
                    opened = at
                depth += 1 if char == "{" else -1
                if not depth:
                    holes.append((start + opened, start + at + 1))
            at += 1
        yield start + begin, text[begin:at], holes
        for first, last in holes:
            yield from _literals(text[first - start + 1 : last - start - 1], first + 1)
        at += len(quotes)


def _masked(body: str, begin: int, holes: list[tuple[int, int]]) -> str:
    for first, last in holes:
        body = body[: first - begin] + _HOLE * (last - first) + body[last - begin :]
    return body


def _unmask(edit: Edit, masked: str, body: str) -> str:
    """What the new text takes over of the words in braces is what the source has there, in its order."""
    was = [
        body[m.start() : m.end()]
        for m in re.finditer(f"{_HOLE}+", masked)
        if edit.start <= m.start() < edit.end
    ]
    if edit.operator == "coalesce-swap":
        was.reverse()
    return re.sub(f"{_HOLE}+", lambda _: was.pop(0), edit.new)


def _edits(sql: str) -> Iterator[Edit]:
    for name, pattern, new in _COMPILED:
        for match in pattern.finditer(sql):
            yield Edit(match.start(), match.end(), match.expand(new), name)
    for match in _EQUALS.finditer(sql):
        clauses = _CLAUSE.findall(sql, 0, match.start())
        if clauses and clauses[-1] != "SET":
            yield Edit(match.start(), match.end(), " <> ", "equals")
    for match in _AND.finditer(sql):
        if re.search(r"BETWEEN [^ ]+ $", sql[: match.start()]):
            continue
        end = _end(sql, match.end(), _END_OF_CONDITION)
        if sql[match.end() : end].strip():
            yield Edit(match.start(), end, "", "drop-condition")
        first = _begin(sql, match.start())
        if first is not None:
            yield Edit(first, match.end(), "", "drop-first-condition")
    for match in _SET.finditer(sql):
        begin, end = match.end(), _end(sql, match.end(), _END_OF_SET)
        parts = _parts(sql, begin, end)
        for number, (first, last) in enumerate(parts):
            if len(parts) > 1 and "=" in sql[first:last]:
                span = (first, parts[1][0]) if not number else (parts[number - 1][1], last)
                yield Edit(*span, " " if not number else "", "drop-assignment")


def _end(sql: str, at: int, stop: re.Pattern[str]) -> int:
    depth = 0
    while at < len(sql):
        if sql[at] == "(":
            depth += 1
        elif sql[at] == ")":
            depth -= 1
            if depth < 0:
                break
        elif not depth and stop.match(sql, at) and not sql[at - 1].isalnum():
            break
        at += 1
    return len(sql[:at].rstrip())


def _begin(sql: str, at: int) -> int | None:
    """Where the condition before `at` begins, if it is the first after WHERE or an opening bracket."""
    depth, place = 0, at - 1
    while place >= 0:
        if sql[place] == ")":
            depth += 1
        elif sql[place] == "(":
            if not depth:
                return place + 1
            depth -= 1
        elif not depth and (match := re.match(r"(WHERE|AND|OR|WHEN|ON)\b", sql[place:])):
            return place + len("WHERE ") if match[1] == "WHERE" else None
        place -= 1
    return None


def _parts(sql: str, begin: int, end: int) -> list[tuple[int, int]]:
    """The spans between the commas that are in no brackets."""
    parts, depth, first = [], 0, begin
    for at in range(begin, end):
        depth += {"(": 1, ")": -1}.get(sql[at], 0)
        if sql[at] == "," and not depth:
            parts.append((first, at))
            first = at + 1
    return [*parts, (first, end)]
