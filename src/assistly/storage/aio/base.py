"""What the async stores have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, ParamSpec, TypeVar

from ..batching import BatchedCall
from .runners import Runner

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S")


class AsyncStore(Generic[S]):
    """A store with `await`; its methods are documented as those of the store that it mirrors."""

    def __init__(self, store: S, runner: Runner) -> None:
        self._store = store
        self._runner = runner

    def __init_subclass__(cls, *, mirrors: type[object]) -> None:
        for name, method in vars(cls).items():
            original = getattr(mirrors, name, None)
            if callable(method) and not name.startswith("_") and not method.__doc__:
                method.__doc__ = getattr(original, "__doc__", None)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._runner.run(partial(function, *args, **kwargs))

    async def _share(self, shared: BatchedCall[R, T], request: R) -> T:
        """A call that may travel with others; the request is checked."""
        return await self._runner.share(shared, request)

    async def _finish(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A cancellation comes out when the call has ended."""
        return await self._runner.finish(partial(function, *args, **kwargs))
