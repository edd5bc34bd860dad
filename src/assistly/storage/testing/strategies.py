"""Hypothesis strategies for the values that can be stored."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from .fixtures import START

_MOST_UTF8 = 128
"""Characters of four bytes that fit in the 512 bytes of a name."""

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")

names = st.text(characters, min_size=1, max_size=_MOST_UTF8)
contents = st.text(characters, max_size=200)

TRICKY_FLOATS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.1,
    1e15,
    1e16,
    -1e16,
    1e17,
    1e21,
    1e22,
    1e23,
    1e300,
    1e-7,
    5e-324,
    2.2250738585072014e-308,
    1.7976931348623157e308,
    9007199254740993.0,
    123456789.123456789,
]
TRICKY_INTS = [0, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400, -(10**400)]

floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(TRICKY_FLOATS)
ints = st.integers() | st.sampled_from(TRICKY_INTS)
scalars = st.none() | st.booleans() | ints | floats | contents


def json_values(*, max_leaves: int = 12) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(contents, inner, max_size=4),
        max_leaves=max_leaves,
    )


def json_objects() -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(contents, json_values(max_leaves=6), max_size=4)


_offsets = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))

moments: st.SearchStrategy[datetime] = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=_offsets,
)
"""Over the whole range of datetime, in zones with every odd offset."""


def near(most: int) -> st.SearchStrategy[datetime]:
    """Few distinct times, so that they collide: START and up to `most` microseconds after it."""
    return st.integers(0, most).map(lambda ticks: START + timedelta(microseconds=ticks))


def stored(value: Any) -> Any:
    """What a JSON value is read back as: the same, but for the sign of a zero."""
    if type(value) is float:
        return value + 0.0
    if type(value) is list:
        return [stored(item) for item in value]
    if type(value) is dict:
        return {key: stored(item) for key, item in value.items()}
    return value


def spelled(value: Any) -> str:
    """A text that two JSON values share only if they are equal in value and in type, all the way down."""
    if type(value) is list:
        return "[" + ",".join(map(spelled, value)) + "]"
    if type(value) is dict:
        return "{" + ",".join(f"{key!r}:{spelled(value[key])}" for key in sorted(value)) + "}"
    return f"{type(value).__name__}:{value.hex() if type(value) is float else ascii(value)}"
