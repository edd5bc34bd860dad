"""Conversion of values for the server, and of results from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types.array import ListBinaryDumper
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

EPOCH_MICROSECONDS = 946_684_800_000_000
"""The year 2000, from where the server counts, in microseconds since 1970."""

_EMPTY_OBJECT = b"\x01{}"
_EMPTY_ARRAY = b"\x01[]"

_decode = json.JSONDecoder().raw_decode


def to_binary(moment: datetime) -> int:
    """Encode a time as the binary format of timestamptz does: microseconds since 2000."""
    return (moment - _EPOCH) // _MICROSECOND


class JsonbLoader(Loader):
    """Decodes jsonb with the standard decoder, whatever the application has registered with psycopg."""

    format = Format.BINARY

    def load(self, data: Buffer) -> Any:
        # Most metadata and most lists of attempts are empty.
        if data == _EMPTY_OBJECT:
            return {}
        if data == _EMPTY_ARRAY:
            return []
        return _decode(str(data[1:], "utf-8"))[0]


class UtcLoader(Loader):
    """Decodes timestamptz in UTC, for sessions in another time zone: there the driver's loader overflows near
    the year 9999."""

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        return _EPOCH + timedelta(microseconds=int.from_bytes(data, "big", signed=True))


def adapt(context: AdaptContext) -> None:
    """Register the loaders and dumpers that the statements need."""
    adapters = context.adapters
    adapters.register_loader("jsonb", JsonbLoader)
    # All ints as int8: the driver would prepare a statement once for each size of integer.
    adapters.register_dumper(int, Int8BinaryDumper)
    adapters.register_dumper(int, Int8Dumper)
    # In the text of an array, NULL is a string if `array_nulls` is off.
    adapters.register_dumper(list, ListBinaryDumper)
