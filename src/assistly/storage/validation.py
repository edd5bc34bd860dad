"""Validation of arguments: types, sizes, times and canonical JSON. All of it raises InvalidValue."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import CoroutineType
from typing import Any, NewType, TypeVar

from .errors import InvalidValue

T = TypeVar("T")

JsonText = NewType("JsonText", str)
"""Canonical JSON: sorted keys, no spaces, floats always with a point and never as -0.0."""

EMPTY_OBJECT = JsonText("{}")

MAX_NAME_BYTES = 512
MAX_CONTENT_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_INT_DIGITS = 4300
MAX_LIMIT = 1000
MAX_ID = 2**63 - 1

# From here on Python writes a float with an exponent, which Postgres reads as an integer.
_PLAIN_FLOAT_BELOW = 1e16
_SHOWN = 60
_SHOWN_TYPES = (str, int, bool, float, timedelta)
_BIG_INT = 10**MAX_INT_DIGITS
_ZERO = timedelta(0)
_ONE_MICROSECOND = timedelta(microseconds=1)
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_encode = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False
).encode


def shown(value: object) -> str:
    """Return a value as text for a message: its repr, shortened."""
    kind = type(value)
    if kind is str and len(value) > _SHOWN:  # type: ignore[arg-type]
        return f"{value[:_SHOWN]!r}… ({len(value)} characters)"  # type: ignore[index, arg-type]
    if kind is int and abs(value) >= 10**_SHOWN:  # type: ignore[arg-type]
        return "a huge int"
    if value is not None and kind not in _SHOWN_TYPES and not isinstance(value, datetime | Enum):
        return with_article(kind.__name__)
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - that of a time zone, for example
        return with_article(kind.__name__)
    return text if len(text) <= 2 * _SHOWN else text[: 2 * _SHOWN] + "…"


def with_article(name: str) -> str:
    """Return the name of a class with "a" or "an" in front of it."""
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def wrong_type(argument: str, expected: str, value: object) -> InvalidValue:
    """Return the error for an argument of the wrong type; the caller raises it."""
    return InvalidValue(f"{argument} must be {expected}, not {shown(value)}")


def name(argument: str, value: object) -> str:
    """A key, nonce, id, platform or other name: 1 to 512 bytes of UTF-8."""
    if type(value) is str and value.isascii() and 0 < len(value) <= MAX_NAME_BYTES and "\x00" not in value:
        return value
    text = _text(argument, value, MAX_NAME_BYTES)
    if not text:
        raise InvalidValue(f"{argument} must not be empty")
    return text


def optional_name(argument: str, value: object) -> str | None:
    """A name, or None."""
    return None if value is None else name(argument, value)


def content(argument: str, value: object) -> str:
    """A text of at most 1 MiB, which may be empty."""
    if type(value) is str and value.isascii() and len(value) <= MAX_CONTENT_BYTES and "\x00" not in value:
        return value
    return _text(argument, value, MAX_CONTENT_BYTES)


def _text(argument: str, value: object, limit: int) -> str:
    if type(value) is not str:
        raise wrong_type(argument, "a str", value)
    if "\x00" in value:
        raise InvalidValue(f"{argument} must not contain NUL characters: {shown(value)}")
    try:
        size = len(value if value.isascii() else value.encode())
    except UnicodeEncodeError:
        raise InvalidValue(f"{argument} must not contain lone surrogates: {shown(value)}") from None
    if size > limit:
        raise InvalidValue(f"{argument} must have at most {limit} bytes of UTF-8, not {size}")
    return value


def utc(argument: str, value: object) -> datetime:
    """An aware datetime, converted to UTC."""
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    if not isinstance(value, datetime):
        raise wrong_type(argument, "an aware datetime", value)
    try:
        if value.utcoffset() is not None:
            # A subclass (of pandas or pendulum) may hold more than a datetime, nanoseconds for example.
            return _plain(value.astimezone(UTC))
    except OverflowError:
        raise InvalidValue(f"{argument} is outside the years 1 to 9999 in UTC: {shown(value)}") from None
    except Exception as error:
        raise InvalidValue(
            f"{argument} cannot be converted to UTC ({type(error).__name__}: {error}): {shown(value)}"
        ) from error
    raise InvalidValue(f"{argument} must be an aware datetime; {shown(value)} is naive: give it a tzinfo")


def _plain(value: datetime) -> datetime:
    return datetime(
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, UTC
    )


def optional_utc(argument: str, value: object) -> datetime | None:
    """An aware datetime, converted to UTC, or None."""
    return None if value is None else utc(argument, value)


def duration(argument: str, value: object, *, zero: bool) -> timedelta:
    """A timedelta above zero; with `zero`, also zero."""
    if not isinstance(value, timedelta):
        raise wrong_type(argument, "a timedelta", value)
    if type(value) is not timedelta:
        value = timedelta(value.days, value.seconds, value.microseconds)
    if value < _ZERO or (not zero and not value):
        raise InvalidValue(
            f"{argument} must be {'zero or more' if zero else 'greater than zero'}, not {value!r}"
        )
    return value


def optional_duration(argument: str, value: object, *, most: timedelta = timedelta.max) -> timedelta | None:
    """A timedelta from zero to `most`, or None."""
    if value is None:
        return None
    checked = duration(argument, value, zero=True)
    if checked > most:
        raise InvalidValue(f"{argument} must be at most {most}, not {checked}; None means no limit")
    return checked


def seconds(argument: str, value: object) -> float:
    """Seconds as a number or a timedelta, zero or more; returned as a number."""
    if isinstance(value, timedelta):
        return duration(argument, value, zero=True).total_seconds()
    return number(argument, value, most=float(timedelta.max.total_seconds()))


def number(argument: str, value: object, *, most: float) -> float:
    """A finite int or float from 0 to `most`."""
    if type(value) is not int and type(value) is not float:
        raise wrong_type(argument, "a number", value)
    if not 0 <= value <= most:
        raise InvalidValue(f"{argument} must be a number from 0 to {most:g}, not {shown(value)}")
    return value


def whole(argument: str, value: object, *, least: int, most: int) -> int:
    """An int from `least` to `most`."""
    if type(value) is not int:
        raise wrong_type(argument, "an int", value)
    if not least <= value <= most:
        raise InvalidValue(f"{argument} must be from {least} to {most}, not {shown(value)}")
    return value


def limit(value: object) -> int:
    """The size of a page, 1 to 1000."""
    return whole("limit", value, least=1, most=MAX_LIMIT)


def identity(argument: str, value: object) -> int:
    """The id of a job or an event. Ids that no record can have are valid: no record is found."""
    if type(value) is not int:
        raise wrong_type(argument, "an int", value)
    return min(max(value, -1), MAX_ID)


def flag(argument: str, value: object) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise wrong_type(argument, "a bool", value)
    return value


def instance(argument: str, value: object, kind: type[T]) -> T:
    """An instance of the class `kind`."""
    if not isinstance(value, kind):
        raise wrong_type(argument, f"a {kind.__name__}", value)
    return value


def function(argument: str, value: object) -> None:
    """A callable."""
    if not callable(value):
        raise wrong_type(argument, "a function", value)


def result(argument: str, value: object) -> JsonText:
    """The canonical text of what the function `argument` returned."""
    if isinstance(value, CoroutineType):
        value.close()
        raise InvalidValue(f"{argument} returned a coroutine: pass a plain function that returns the value")
    return canonical(f"the result of {argument}", value)


def items(argument: str, values: object, what: str) -> Iterable[Any]:
    """An iterable of `what`, which is not a text, a mapping or bytes."""
    if isinstance(values, str | bytes | bytearray | Mapping) or not isinstance(values, Iterable):
        raise wrong_type(argument, f"an iterable of {what}", values)
    return values


def names(argument: str, values: object) -> list[str] | None:
    """Names without duplicates, in code point order; None stands for all."""
    if values is None:
        return None
    return sorted({name(argument, value) for value in items(argument, values, "str")})


def later(moment: datetime, by: timedelta) -> datetime:
    """`moment + by`, or the last possible time if that overflows. `by` is zero or more."""
    try:
        return moment + by
    except OverflowError:
        return _LATEST


def earlier(moment: datetime, by: timedelta) -> datetime:
    """`moment - by`, or the first possible time if that overflows. `by` is zero or more."""
    try:
        return moment - by
    except OverflowError:
        return _EARLIEST


def window(moment: datetime, gap: timedelta) -> tuple[datetime, datetime]:
    """The first and the last time that are nearer to `moment` than `gap`, which is above zero."""
    inside = gap - _ONE_MICROSECOND
    return earlier(moment, inside), later(moment, inside)


def canonical(argument: str, value: object) -> JsonText:
    """Return the canonical text of a JSON value, the same for every engine.

    Raises InvalidValue for values that JSON or an engine cannot hold: other types (tuples and enums too),
    keys that are not str, NaN, infinities, NUL, lone surrogates, ints of more than 4300 digits, more than
    64 levels, more than 1 MiB.
    """
    walk = _Walk(argument)
    walk.check(value, 0)
    text = _encode(value) if walk.plain else _canonical_text(value)
    if len(text) > MAX_CONTENT_BYTES // 4:
        size = len(text.encode())
        if size > MAX_CONTENT_BYTES:
            raise InvalidValue(f"{argument} must have at most {MAX_CONTENT_BYTES} bytes as JSON, not {size}")
    return JsonText(text)


def recoded(text: str) -> JsonText:
    """Return the canonical text of a value that is stored as JSON, however long it is."""
    value = json.loads(text)
    walk = _Walk("a stored value")
    walk.check(value, 0)
    return JsonText(_encode(value) if walk.plain else _canonical_text(value))


def canonical_object(argument: str, value: object) -> JsonText:
    """Return the canonical text of a dict. Raises InvalidValue for any other value."""
    if type(value) is not dict:
        raise wrong_type(argument, "a dict", value)
    return canonical(argument, value) if value else EMPTY_OBJECT


class _Walk:
    """Checks a value. `plain` says whether the output of the standard encoder is canonical for it."""

    def __init__(self, argument: str) -> None:
        self._argument = argument
        self.plain = True

    def check(self, value: object, depth: int) -> None:
        kind = type(value)
        if kind is str:
            self._text(value)
        elif value is None or kind is bool:
            return
        elif kind is int:
            if not -_BIG_INT < value < _BIG_INT:
                raise InvalidValue(f"{self._argument} holds an int with more than {MAX_INT_DIGITS} digits")
        elif kind is float:
            self._float(value)  # type: ignore[arg-type]
        elif kind is dict or kind is list:
            self._container(value, depth + 1)
        else:
            raise InvalidValue(
                f"{self._argument} holds {shown(value)}, which is not a JSON value: "
                "use None, bool, int, float, str, list or dict"
            )

    def _container(self, value: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise InvalidValue(f"{self._argument} is nested more than {MAX_DEPTH} levels deep")
        if type(value) is list:
            for item in value:
                self.check(item, depth)
            return
        for key, item in value.items():
            if type(key) is not str:
                raise InvalidValue(f"{self._argument} has the key {shown(key)}: keys must be str")
            self._text(key)
            self.check(item, depth)

    def _text(self, value: Any) -> None:
        if "\x00" in value:
            raise InvalidValue(f"{self._argument} must not contain NUL characters: {shown(value)}")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidValue(
                    f"{self._argument} must not contain lone surrogates: {shown(value)}"
                ) from None

    def _float(self, value: float) -> None:
        if not math.isfinite(value):
            raise InvalidValue(f"{self._argument} must not contain {value!r}: JSON has no such number")
        if abs(value) >= _PLAIN_FLOAT_BELOW or (value == 0.0 and math.copysign(1.0, value) < 0):
            self.plain = False


def _canonical_text(value: Any) -> str:
    """As `json.dumps`, but with floats without exponents and without a negative zero."""
    if type(value) is float:
        if value == 0.0:
            return "0.0"
        return _without_exponent(value) if abs(value) >= _PLAIN_FLOAT_BELOW else repr(value)
    if type(value) is list:
        return "[" + ",".join(map(_canonical_text, value)) + "]"
    if type(value) is dict:
        members = (
            f"{json.dumps(key, ensure_ascii=False)}:{_canonical_text(value[key])}" for key in sorted(value)
        )
        return "{" + ",".join(members) + "}"
    return json.dumps(value, ensure_ascii=False)


def _without_exponent(value: float) -> str:
    from decimal import Decimal

    return f"{Decimal(repr(value)):f}.0"
