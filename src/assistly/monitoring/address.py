"""Addresses to listen on: `PORT`, `HOST:PORT` or `[::1]:PORT`."""

from __future__ import annotations

import re
from typing import NamedTuple

from assistly.storage.errors import InvalidValue
from assistly.storage.validation import shown

LOOPBACK = "127.0.0.1"
_LARGEST_PORT = 65_535
_FORM = re.compile(r"(?:(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]/\s]+)):)?(?P<port>[0-9]{1,5})", re.ASCII)


class Address(NamedTuple):
    """A host name or IP address, and a port; port 0 stands for any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: object) -> Address:
    """Parse an address. A port alone means 127.0.0.1. Raises InvalidValue."""
    found = _FORM.fullmatch(str(text)) if isinstance(text, str | int) and text is not True else None
    if found is None or int(found["port"]) > _LARGEST_PORT:
        raise InvalidValue(
            f"the address must be PORT, HOST:PORT or [IPV6]:PORT, with a port up to {_LARGEST_PORT}; "
            f"got {shown(text)}"
        )
    return Address(found["v6"] or found["host"] or LOOPBACK, int(found["port"]))
