"""Keys: one byte for the table, then the values that order it.

A NUL ends a name that is followed by another value. No name contains one, so a name orders before longer
names that begin with it. Times have 12 bytes, numbers 8.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from struct import Struct

# Records
JOBS = b"J"
SESSIONS = b"S"
APPROVALS = b"A"
KEYS = b"K"
NONCES = b"N"
COUNTERS = b"C"
LOCKS = b"L"
EVENTS = b"E"
SNAPSHOTS = b"P"
DOCUMENTS = b"D"

# Indexes
JOBS_BY_KEY = b"k"
JOBS_BY_STATUS = b"s"
JOBS_DUE = b"d"
JOBS_LATE = b"l"
JOBS_LEASED = b"h"
JOBS_BY_SLOT = b"g"
JOBS_POSTED = b"p"
SESSIONS_BY_TIME = b"u"
APPROVALS_BY_TIME = b"a"
APPROVALS_BY_STATUS = b"b"
KEYS_BY_TIME = b"i"
NONCES_BY_TIME = b"n"
EVENTS_BY_TIME = b"e"
EVENTS_BY_TYPE = b"t"
EVENTS_BY_TYPE_AND_TIME = b"y"

# Single values
LATENCY = b"#latency"
FORMAT = b"#format"
LAST_PRUNE = b"#pruned"
_SEQUENCE = b"#next-"
JOB_IDS = _SEQUENCE + b"job"
EVENT_IDS = _SEQUENCE + b"event"
APPROVAL_SEQUENCE = _SEQUENCE + b"approval"
KEY_SEQUENCE = _SEQUENCE + b"key"

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_NUMBER_OFFSET = 2**63
_TIME = Struct(">III")
_TIME_AND_NUMBER = Struct(">IIIQ")

END = b"\xff" * 24
"""Above every time and number."""


def number(value: int) -> bytes:
    """A signed number of 64 bits."""
    return (value + _NUMBER_OFFSET).to_bytes(8, "big")


def number_after(value: int) -> bytes:
    """A key above this number, and below all greater ones."""
    return number(value) + b"\x00"


def time(moment: datetime) -> bytes:
    """A time."""
    since = moment - _EARLIEST
    return _TIME.pack(since.days, since.seconds, since.microseconds)


def time_and_number(moment: datetime, value: int) -> bytes:
    """A time, then a number."""
    since = moment - _EARLIEST
    return _TIME_AND_NUMBER.pack(since.days, since.seconds, since.microseconds, value + _NUMBER_OFFSET)


def name(text: str) -> bytes:
    """A name that another value follows."""
    return text.encode() + b"\x00"


def after(table: bytes) -> bytes:
    """A key above all that begin with `table`, for the end of a scan."""
    return table[:-1] + bytes([table[-1] + 1])


def last_number(key: bytes) -> int:
    """The number at the end of a key."""
    return int.from_bytes(key[-8:], "big") - _NUMBER_OFFSET


def time_in(key: bytes, offset: int = 1) -> datetime:
    """The time at `offset` in a key."""
    days, seconds, microseconds = _TIME.unpack_from(key, offset)
    return _EARLIEST + timedelta(days, seconds, microseconds)
