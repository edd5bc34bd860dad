"""Keys of any length, over a store whose keys have a limit."""

from __future__ import annotations

from collections.abc import Iterator

from .ordered import OrderedMap, Value


class LongKeys:
    """A map with keys of any length over one whose keys have at most `most` bytes.

    Long keys, of `most - 1` bytes or more, are cut after `most - 1` bytes. All that begin with the same
    `most - 1` bytes share one entry of the map below, whose value lists the rest of each key and its value,
    in order. Such keys are rare; shorter ones cost nothing extra.
    """

    def __init__(self, map: OrderedMap, most: int) -> None:
        self.map = map
        self._longest = most - 1

    def get(self, key: bytes) -> Value | None:
        """The value, or None."""
        longest = self._longest
        if len(key) < longest:
            return self.map.get(key)
        return dict(self._entries(key[:longest])).get(key[longest:])

    def put(self, key: bytes, value: Value) -> None:
        """Insert or replace."""
        longest = self._longest
        if len(key) < longest:
            self.map.put(key, value)
        else:
            entries = dict(self._entries(key[:longest]))
            entries[key[longest:]] = value
            self.map.put(key[:longest], _packed(entries))

    def delete(self, key: bytes) -> None:
        """Delete the key."""
        longest = self._longest
        if len(key) < longest:
            self.map.delete(key)
            return
        entries = dict(self._entries(key[:longest]))
        if entries.pop(key[longest:], None) is None:
            return
        if entries:
            self.map.put(key[:longest], _packed(entries))
        else:
            self.map.delete(key[:longest])

    def scan(self, low: bytes, high: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, Value]]:
        """See `ReadableMap.scan`."""
        longest = self._longest
        # The entry that holds keys just below `high` may be `high[:longest]` itself, so it is included.
        first, end = low[:longest], high[:longest] + b"\x00"
        for key, value in self.map.scan(first, end, reverse=reverse):
            if len(key) < longest:
                if low <= key < high:
                    yield key, value
                continue
            entries = [*_unpacked(value)]
            for rest, own in reversed(entries) if reverse else entries:
                if low <= key + rest < high:
                    yield key + rest, own

    def _entries(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        value = self.map.get(key)
        return iter(()) if value is None else _unpacked(value)


def _packed(entries: dict[bytes, bytes]) -> bytes:
    parts: list[bytes] = []
    for rest in sorted(entries):
        parts += len(rest).to_bytes(4, "big"), rest, len(entries[rest]).to_bytes(4, "big"), entries[rest]
    return b"".join(parts)


def _unpacked(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(value):
        rest_end = at + 4 + int.from_bytes(value[at : at + 4], "big")
        own_start = rest_end + 4
        own_end = own_start + int.from_bytes(value[rest_end:own_start], "big")
        yield value[at + 4 : rest_end], value[own_start:own_end]
        at = own_end
