"""Which endpoints of FastAPI may take the storage: the others would lose what they write."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from assistly.storage import ConfigurationError


def refuse_websocket(scope: Any) -> None:
    """Raise ConfigurationError for a WebSocket, whose function runs as long as the connection."""
    if scope["type"] == "websocket":
        raise ConfigurationError(
            "a WebSocket cannot take TransactionDep: the transaction would last as long as the connection, "
            "and be undone when that is closed; take StorageDep, and open a transaction for each message: "
            "`async with storage.transaction() as tx:`"
        )


def refuse_plain_function(scope: Any, dependency: Callable[..., Any], name: str) -> None:
    """Raise ConfigurationError if a plain `def` endpoint itself takes this dependency, which must be awaited.

    Its own dependencies may take it, and so may what is no Python function: FastAPI may await that.
    """
    endpoint = getattr(scope.get("route"), "dependant", None)  # codespell:ignore
    if endpoint is None or not _is_plain(endpoint.call):
        return
    if any(each.call is dependency and each.name is not None for each in endpoint.dependencies):
        called = getattr(endpoint.call, "__name__", "__call__")
        raise ConfigurationError(
            f"{called} is not async, and takes {name}, whose calls must be awaited: write "
            f"`async def {called}`, or take SyncStorageDep"
        )


def _is_plain(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    return all(
        inspect.isfunction(getattr(each, "__func__", each))
        and not inspect.iscoroutinefunction(each)
        and not inspect.isasyncgenfunction(each)
        for each in (function, inspect.unwrap(function))
    )
