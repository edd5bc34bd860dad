"""What `assistly worker` writes to standard error: text for people, or JSON for machines."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

FIELDS = ("timestamp", "level", "logger", "event", "message")
"""The keys of each line of JSON that come first. `event` is null in records that are no event of a worker."""


class LogFormat(StrEnum):
    """How records of the log are written."""

    TEXT = "text"
    JSON = "json"


def log_as_json() -> None:
    """Write the records of all loggers to standard error, each as one JSON object on a line.

    Raises ConfigurationError if the extra `log` is missing.
    """
    from assistly.storage.errors import ConfigurationError

    try:
        import structlog.processors
        import structlog.stdlib
    except ImportError as error:
        raise ConfigurationError(
            f"--log-format json needs structlog ({error}): python -m pip install 'assistly[log]'"
        ) from None
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_renamed, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.processors.format_exc_info,
            _in_order,
            structlog.processors.JSONRenderer(default=_jsonable),
        ],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def _renamed(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Call the message `message`: structlog calls it the event, and here that is what has happened."""
    fields["message"], fields["event"] = fields["event"], None
    return fields


def _in_order(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = fields.pop("_record")
    if fields.pop("_from_structlog"):
        fields = _renamed(_, __, fields)
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
    first = {
        "timestamp": time.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": fields["event"],
        "message": fields["message"],
    }
    return {**first, **{name: value for name, value in fields.items() if name not in FIELDS}}


def _jsonable(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
