"""Validates publishers and their results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter, Signature
from numbers import Integral
from typing import Any, Literal

from assistly.storage.records import Job
from assistly.storage.validation import shown, with_article

from .publication import Publication
from .publisher import CheckResult, NotPosted, Publisher, StillUnknown, Unknown, WasPosted

_LONGEST_INT = 10**512
_SELF = "self"


@dataclass(frozen=True, slots=True)
class CheckedPublisher:
    """The functions of a publisher that a worker calls."""

    publish: Callable[[Job, Publication], object]
    check: Callable[[Job], object] | None


def checked_publisher(publisher: Publisher) -> CheckedPublisher:
    """Return the functions of a valid publisher."""
    function: Callable[..., object] = _publish_function(publisher)
    check = getattr(publisher, "check", None)
    match _second_argument(function):
        case None:
            return CheckedPublisher(lambda job, _: function(job), check)
        case "positional":
            return CheckedPublisher(function, check)
        case "keyword":
            return CheckedPublisher(lambda job, publication: function(job, publication=publication), check)


def publisher_fault(publisher: object) -> str | None:
    """What is wrong with a publisher, and what to write instead; None if nothing shows before a call."""
    if isinstance(publisher, type):
        name = publisher.__name__
        return f"must be a function or another callable, not the class {name}: pass {name}(…)"
    function = _publish_function(publisher)
    if function is None:
        return (
            "must be a function, another callable, or an object with a method publish, not "
            f"{shown(publisher)}"
        )
    fault = _kind_fault(function, "return the remote id")
    if fault is None and _second_argument(function) is None:
        fault = _signature_fault(function, "must take the job, or the job and the publication")
    return fault if fault is not None else _check_fault(getattr(publisher, "check", None))


def _publish_function(publisher: object) -> Any:
    if callable(publisher):
        return publisher
    function = getattr(publisher, "publish", None)
    return function if callable(function) else None


def _check_fault(check: object) -> str | None:
    if check is None:
        return None
    if not callable(check):
        return f"has a check that must be a method or None, not {shown(check)}"
    fault = _kind_fault(check, "return WasPosted, NotPosted or StillUnknown")
    if fault is None:
        fault = _signature_fault(check, "must take the job as its only argument")
    return None if fault is None else f"has a check that {fault}"


def _kind_fault(function: Callable[..., Any], cure: str) -> str | None:
    functions = (function, type(function).__call__)
    if any(map(inspect.isgeneratorfunction, functions)):
        return f"is a generator function, so calling it runs nothing: {cure}, do not yield"
    if any(map(inspect.isasyncgenfunction, functions)):
        return (
            "is an asynchronous generator function, so calling it runs nothing: "
            f"write `async def`, and {cure}, do not yield"
        )
    return None


def _signature_fault(function: Callable[..., Any], rule: str) -> str | None:
    signature = _signature(function)
    if signature is None:
        return None
    try:
        signature.bind(None)
    except TypeError as error:
        return f"{rule}; its arguments are {signature} ({error})"
    return None


def _second_argument(function: Callable[..., Any]) -> Literal["positional", "keyword"] | None:
    """How to pass the publication: if the function requires it, or has an argument with that name."""
    own = _signature(function)
    if own is None:
        return None
    named = (_signature(function, follow=True) or own).parameters.get("publication")
    if named is not None and named.kind is Parameter.KEYWORD_ONLY and _binds(own, None, publication=None):
        return "keyword"
    is_method = next(iter(own.parameters), "") == _SELF  # of a class that was not instantiated
    if is_method or not _binds(own, None, None):
        return None
    return "positional" if named is not None or not _binds(own, None) else None


def _signature(function: Callable[..., Any], *, follow: bool = False) -> Signature | None:
    """The signature, if there is one: some functions written in C have none.

    Unless `follow`, it is not that of a wrapped function: the wrapper may fill in arguments.
    """
    try:
        return inspect.signature(function, follow_wrapped=follow)
    except (TypeError, ValueError):
        return None


def _binds(signature: Signature, *args: object, **kwargs: object) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


@contextmanager
def examining(what: str) -> Iterator[None]:
    """Turn exceptions from examining a publisher's result into Unknown: the publisher has already ended."""
    try:
        yield
    except Unknown:
        raise
    except Exception as error:
        raise Unknown(f"examining the result of the {what} raised {type(error).__name__}") from error


def remote_id(result: object) -> str | None:
    """The remote id as text, from a publisher's result. Raises Unknown for a result of another type."""
    if result is None or type(result) is str:
        return result
    if isinstance(result, str):
        return str.__str__(result)
    if isinstance(result, Integral) and not isinstance(result, bool):
        number = int(result)
        # A longer int is too long for a remote id, and Python refuses to print a very long one.
        return str(number) if abs(number) < _LONGEST_INT else ""
    raise Unknown(
        f"the publisher must return a remote id, a str or an int, or None; it returned {_kind(result)}"
    )


def check_result(result: object) -> CheckResult:
    """The result of a check. Raises Unknown for a result of another type."""
    if isinstance(result, WasPosted):
        return WasPosted(remote_id(result.remote_id))
    if isinstance(result, NotPosted | StillUnknown):
        return result
    returned = f"the class {result.__name__}" if isinstance(result, type) else _kind(result)
    raise Unknown(f"a check must return WasPosted(…), NotPosted() or StillUnknown(…); it returned {returned}")


def _kind(result: object) -> str:
    if isinstance(result, bool | float):
        return repr(result)
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return "a generator, which has not run"
    kind = type(result)
    return with_article(f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."))
