"""How values travel to and from the server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_EMPTY_OBJECT = b"\x01{}"
_EMPTY_ARRAY = b"\x01[]"

_decode = json.JSONDecoder().raw_decode


def to_binary(moment: datetime) -> int:
    """What the binary format of a timestamptz holds."""
    return (moment - _EPOCH) // _MICROSECOND


class JsonbLoader(Loader):
    """The standard decoder, whatever the application registered for its own connections."""

    format = Format.BINARY

    def load(self, data: Buffer) -> Any:
        # Most metadata and most lists of attempts are empty.
        if data == _EMPTY_OBJECT:
            return {}
        if data == _EMPTY_ARRAY:
            return []
        return _decode(str(data[1:], "utf-8"))[0]


class UtcLoader(Loader):
    """For sessions in another time zone, where the driver's loader overflows near year 9999."""

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        return _EPOCH + timedelta(microseconds=int.from_bytes(data, "big", signed=True))


def adapt(context: AdaptContext) -> None:
    """Give this context the types that the statements rely on."""
    adapters = context.adapters
    adapters.register_loader("jsonb", JsonbLoader)
    # Of one size, so that a statement is prepared once and not once for each size of number.
    adapters.register_dumper(int, Int8BinaryDumper)
    adapters.register_dumper(int, Int8Dumper)
