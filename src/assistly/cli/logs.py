"""How `assistly worker` and `assistly web` log to standard error: text for people, or JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import MutableMapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from .output import printable

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger("assistly.cli")

FIELDS = ("timestamp", "level", "logger", "event", "message")
"""The keys of each line of JSON that come first. `event` is null in records that are not worker events."""


class LogFormat(StrEnum):
    """The format of log records."""

    TEXT = "text"
    JSON = "json"


def log_as_text() -> None:
    """Write the records of all loggers to standard error, without terminal control characters."""
    handler = logging.StreamHandler()
    handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def log_as_json(*, owns_process: bool) -> None:
    """Write the records of all loggers to standard error, one JSON object per line.

    If `owns_process`, warnings and uncaught exceptions become records too. Raises ConfigurationError if the
    extra `log` is missing.
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
            structlog.processors.JSONRenderer(default=_jsonable, allow_nan=False),
        ],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter(formatter))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    if owns_process:
        _log_what_is_uncaught()


def _log_what_is_uncaught() -> None:
    """Log warnings and uncaught exceptions, which Python otherwise prints as text."""
    logging.captureWarnings(True)

    def of_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        logger.critical("the command failed", exc_info=(kind, error, trace))

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is SystemExit:
            return
        name = "unknown" if args.thread is None else args.thread.name
        error = args.exc_value or args.exc_type()
        trace = args.exc_traceback
        logger.error("thread %s failed", name, exc_info=(args.exc_type, error, trace))

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        what = args.err_msg or "Exception ignored in"
        error = args.exc_value or args.exc_type()
        exc_info = (args.exc_type, error, args.exc_traceback)
        logger.error("%s: %s", what, _text_of(args.object), exc_info=exc_info)

    sys.excepthook = of_main
    threading.excepthook = of_thread
    sys.unraisablehook = unraisable


class _TextFormatter(logging.Formatter):
    """Replaces terminal control characters, and indents the continuation lines of a message.

    This keeps a name in a message from passing for a record of its own.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the base
        return super().formatMessage(record).replace("\n", "\n    ")

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _JsonFormatter(logging.Formatter):
    """Formats with another formatter. If that fails, the object says why."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        try:
            return self._formatter.format(record)
        except Exception as error:  # noqa: BLE001 - of the values of the record
            return self._reported(record, error)

    def _reported(self, record: logging.LogRecord, error: Exception) -> str:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - of the values of the record
            message = _text_of(record.msg)
        known = logging.makeLogRecord({}).__dict__.keys() | {"message"}
        extra = {name: value for name, value in record.__dict__.items() if name not in known}
        fields = {
            "timestamp": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": extra.pop("event", None),
            "message": message,
            "log_error": f"this record could not be formatted: {type(error).__name__}: {_text_of(error)}",
            **extra,
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps({_text_of(name): _written(value) for name, value in fields.items()})


def _written(value: object) -> object:
    """The value if JSON can hold it, else a description."""
    try:
        return json.loads(json.dumps(value, default=_jsonable, allow_nan=False))
    except Exception:  # noqa: BLE001 - of the value
        return _text_of(value)


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - of the value
        return f"<{type(value).__name__}, whose text failed with {type(error).__name__}>"


def _renamed(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Rename the message to `message`: structlog calls it `event`, which here is the event of the worker."""
    fields["message"], fields["event"] = fields["event"], None
    return fields


def _in_order(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = fields.pop("_record")
    if fields.pop("_from_structlog"):
        fields = _renamed(_, __, fields)
    first = {
        "timestamp": _timestamp(record),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": fields["event"],
        "message": fields["message"],
    }
    return {**first, **{name: value for name, value in fields.items() if name not in FIELDS}}


def _timestamp(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
    return time.replace("+00:00", "Z")


def _jsonable(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
