"""What is wrong with a publisher, or with its result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

from assistly.storage.validation import shown

from .publisher import Unknown

_LONGEST_INT = 10**512


def publisher_fault(publisher: object) -> str | None:
    """What makes this no publisher, and what to write instead; None if nothing can be seen before a call."""
    if isinstance(publisher, type):
        name = publisher.__name__
        return f"must be a function or an object that can be called, and is the class {name}: pass {name}(…)"
    if not callable(publisher):
        return f"must be a function or another object that can be called, not {shown(publisher)}"
    functions = (publisher, type(publisher).__call__)
    if any(map(inspect.isgeneratorfunction, functions)):
        return "is a generator function, of which a call runs nothing: return the remote id, do not yield"
    if any(map(inspect.isasyncgenfunction, functions)):
        return (
            "is an asynchronous generator function, of which a call runs nothing: "
            "write `async def`, and return the remote id, do not yield"
        )
    return _signature_fault(publisher)


def _signature_fault(publisher: Callable[..., Any]) -> str | None:
    try:
        # Not that of a wrapped function: the wrapper may fill in arguments.
        signature = inspect.signature(publisher, follow_wrapped=False)
    except (TypeError, ValueError):  # it has none, as some functions that are written in C
        return None
    try:
        signature.bind(None)
    except TypeError as error:
        return f"must take the job as its only argument, and its arguments are {signature} ({error})"
    return None


@contextmanager
def examining() -> Iterator[None]:
    """Turn what a publisher's result raises when it is looked at into Unknown: the publisher has ended."""
    try:
        yield
    except Unknown:
        raise
    except Exception as error:
        raise Unknown(f"looking at what the publisher returned raised {type(error).__name__}") from error


def remote_id(result: object) -> str | None:
    """The remote id as text, from a publisher's result. Raises Unknown for a result of another type."""
    if result is None or type(result) is str:
        return result
    if isinstance(result, str):
        return str.__str__(result)
    if isinstance(result, Integral) and not isinstance(result, bool):
        number = int(result)
        # A longer one would be too long for a remote id, and Python refuses to print a very long one.
        return str(number) if abs(number) < _LONGEST_INT else ""
    raise Unknown(
        f"the publisher must return a remote id, a str or an int, or None; it returned {_kind(result)}"
    )


def _kind(result: object) -> str:
    if isinstance(result, bool | float):
        return repr(result)
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return "a generator, which has not run"
    return f"a {type(result).__module__}.{type(result).__qualname__}".replace("a builtins.", "a ")
