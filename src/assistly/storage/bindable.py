"""The type of what `bind` takes, without importing the libraries that it is from."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias


class Transactional(Protocol):
    """A connection or a session, synchronous or not: not what opens one."""

    def commit(self) -> Any: ...

    def rollback(self) -> Any: ...


class Proxy(Protocol):
    """One that finds its attributes at run time, as `django.db.connection` does."""

    def __getattr__(self, item: str, /) -> Any: ...


Bindable: TypeAlias = Transactional | Proxy
