"""The templates, and how they format values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from markupsafe import Markup

from assistly.views.jobs import deed, listed_time
from assistly.views.status import WAITING_TRUNCATED, due_text
from assistly.views.text import file_size, span

from .forms import hidden_value

if TYPE_CHECKING:
    from jinja2.runtime import Context

    from assistly.views.status import JobCount

_CUT = 120
_SPACES = 10
"""How many times longer than the result the text is that `_cut` examines, since spaces are collapsed."""
_PART = 2_000
_WHOLE = 100_000

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and characters that change the text direction."""


@cache
def templates() -> Environment:
    """The environment of the templates: everything is escaped, and an unknown name is an error.

    Invisible characters are replaced, unless a template has escaped the value itself (`| e`), as in a hidden
    field, which must not change.
    """
    environment = Environment(
        loader=PackageLoader("assistly.web"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        hidden=_hidden,
        time=_time,
        count=_count,
        json_start=_json_start,
        start=_start,
        cut=_cut,
        span=_span,
        size=file_size,
        words=_words,
        deed=deed,
        listed_time=listed_time,
        due=due_text,
        total=_total,
        merge=_merge,
    )
    environment.globals.update(WAITING_TRUNCATED=WAITING_TRUNCATED, PART=_PART, WHOLE=_WHOLE)
    return environment


def _seen(value: Any) -> Any:
    """The value with visible signs for _UNSEEN, so that a text cannot pass for another one."""
    return _UNSEEN.sub("\ufffd", value) if type(value) is str else value


def _hidden(value: object) -> str:
    """The value of a hidden field, which `WebPage.exact` reads."""
    return hidden_value(str(value))


@pass_context
def _time(context: Context, time: datetime | None) -> Markup:
    """A time in the zone of the visitor."""
    if time is None:
        return Markup("–")
    text = context["page"].time(time)
    return Markup('<time datetime="{}">{}</time>').format(time.isoformat(), text)


def _count(count: JobCount | int | None) -> str:
    """A number with commas; a + if counting stopped there."""
    if count is None:
        return "0"
    if isinstance(count, int):
        return f"{count:,}"
    return f"{count.count:,}" if count.exact else f"{count.count:,}+"


def _total(counts: Iterable[JobCount | None]) -> str:
    """The sum of counts; a + if one of them is not exact."""
    known = [count for count in counts if count is not None]
    total = sum(count.count for count in known)
    return f"{total:,}" if all(count.exact for count in known) else f"{total:,}+"


class Start(NamedTuple):
    """A text, or its first characters if it `is_cut`."""

    text: str
    is_cut: bool


def _start(text: str, length: int = _PART) -> Start:
    return Start(text[:length], len(text) > length)


def _json_start(value: Any, length: int = _PART, indent: int | None = 2) -> Start:
    """A value as JSON, up to a length. Formats little more than that, however large the value is."""
    encoder = json.JSONEncoder(ensure_ascii=False, indent=indent, sort_keys=True)
    found, size = [], 0
    for part in encoder.iterencode(value):
        found.append(part)
        size += len(part)
        if size > length:
            break
    return _start("".join(found), length)


def _cut(text: str, length: int = _CUT) -> str:
    """The text on one line, shortened."""
    seen = text[: length * _SPACES]
    line = " ".join(seen.split())
    return line if len(line) <= length and seen == text else line[: length - 1] + "…"


def _span(length: timedelta | None) -> str:
    return "–" if length is None else span(length)


def _words(status: str) -> str:
    """A status as words."""
    return str(status).replace("_", " ")


def _merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return first | second
