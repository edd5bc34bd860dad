"""The built-in publishers, and how the command line names publishers."""

from __future__ import annotations

import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Any

from assistly.storage.addresses import without_password
from assistly.storage.errors import ConfigurationError

from ..publisher_checks import publisher_fault

if TYPE_CHECKING:
    from ..publisher import Publisher

SPECS = "stdout, file:PATH, webhook:URL or MODULE:ATTRIBUTE"


def load_publisher(
    spec: str, *, webhook_secret: str | None = None, webhook_status_url: str | None = None
) -> Publisher:
    """Return the publisher for `stdout`, `file:PATH`, `webhook:URL` or `module:attribute`.

    `webhook_secret` signs the requests of `webhook`, and `webhook_status_url` is the URL that it asks for
    outcomes. Raises ConfigurationError for any other specification, and if the publisher cannot be loaded.
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

        return WebhookPublisher(rest, secret=webhook_secret, status_url=webhook_status_url)
    if colon and kind and rest and not set("/@") & set(spec):
        return _imported(spec, kind, rest)
    raise ConfigurationError(f"a publisher must be {SPECS}; got {without_password(spec)}")


def _imported(spec: str, module: str, attribute: str) -> Publisher:
    try:
        found: Any = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            hint = " (start the worker in the folder of the module, or set PYTHONPATH)"
        raise ConfigurationError(f"cannot load the publisher {spec!r}: {error}{hint}") from error
    except Exception as error:
        raise ConfigurationError(f"cannot load the publisher {spec!r}: {_located(error)}") from error
    fault = publisher_fault(found)
    if fault is not None:
        raise ConfigurationError(f"the publisher {spec!r} {fault}"[:500])
    publisher: Publisher = found
    return publisher


def _located(error: Exception) -> str:
    """An exception from the module of the publisher, with the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}: {type(error).__name__}: {error}"
