"""The built-in publishers, and the specifications by which the command line names publishers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from assistly.storage.errors import ConfigurationError

if TYPE_CHECKING:
    from ..publisher import Publisher

SPECS = "stdout, file:PATH, webhook:URL or MODULE:ATTRIBUTE"


def load_publisher(spec: str, *, webhook_secret: str | None = None) -> Publisher:
    """Return the publisher for `stdout`, `file:PATH`, `webhook:URL` or `module:attribute`.

    `webhook_secret` signs the requests of `webhook`. Raises ConfigurationError for any other text, and if
    the publisher cannot be loaded.
    """
    kind, colon, rest = spec.partition(":")
    if spec == "stdout":
        from .stdout import publish

        return publish
    if kind == "file" and rest:
        from .file import FilePublisher

        return FilePublisher(rest)
    if kind == "webhook" and rest:
        from .webhook import WebhookPublisher

        return WebhookPublisher(rest, secret=webhook_secret)
    if colon and kind and rest:
        return _imported(spec, kind, rest)
    raise ConfigurationError(f"a publisher is {SPECS}; got {spec!r}")


def _imported(spec: str, module: str, attribute: str) -> Publisher:
    try:
        found = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the publisher {spec!r} cannot be loaded: {error}") from error
    if not callable(found) or isinstance(found, type):
        raise ConfigurationError(
            f"the publisher {spec!r} must be a function or another callable, and is {found!r}"[:500]
        )
    publisher: Publisher = found
    return publisher
