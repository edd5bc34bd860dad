"""The base class of the async stores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from ..batching import BatchedCall
from .calls import Calls

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S")


class AsyncStore(Generic[S]):
    """A store with `await`. It takes the docstrings of the store that it mirrors, unless it has its own."""

    def __init__(self, store: S, calls: Calls) -> None:
        self._store = store
        self._calls = calls

    def __init_subclass__(cls, *, mirrors: type[object]) -> None:
        cls.__doc__ = cls.__doc__ or mirrors.__doc__
        for name, method in vars(cls).items():
            original = getattr(mirrors, name, None)
            if callable(method) and not name.startswith("_") and not method.__doc__:
                method.__doc__ = getattr(original, "__doc__", None)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._calls.run(partial(function, *args, **kwargs))

    async def _finish(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._calls.finish(partial(function, *args, **kwargs))

    async def _batch(self, operation: BatchedCall[Any, R, T], request: R) -> T:
        return await self._calls.batch(operation, request)
