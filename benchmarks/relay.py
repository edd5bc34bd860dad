"""A relay before the Postgres server that delays each direction, as a network does.

It is a process of its own. What arrives is passed on when the delay is over, however much else is on its
way: a delay adds to the time of a round trip, and takes nothing from the throughput. `select` is used
because its timeout is exact to some microseconds; that of `epoll` is rounded up to a millisecond.
"""

from __future__ import annotations

import multiprocessing
import select
import socket
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .model import Environment

DELAY = 0.0005
"""Seconds, each way."""

_CHUNK = 2**16
_MOST_QUEUED = 2**23
"""Bytes on their way in one direction, of which more are not read: a window of 16 GB/s at this delay."""

_TIMER_SLACK = Path("/proc/self/timerslack_ns")
Address = tuple[str, int] | str


@dataclass(eq=False)
class _Direction:
    source: socket.socket
    target: socket.socket
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    queued: int = 0
    ended: bool = False
    """The source sends no more."""
    blocked: bool = False
    """The target takes no more for now."""

    def receive(self, delay: float) -> None:
        try:
            data = self.source.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = not data
        self.queued += len(data)
        self.queue.append((time.monotonic() + delay, data))

    def send_due(self, now: float) -> bool:
        """False once there is nothing more to come."""
        self.blocked = False
        while self.queue and self.queue[0][0] <= now:
            due, data = self.queue.popleft()
            if not data:
                with suppress(OSError):
                    self.target.shutdown(socket.SHUT_WR)
                return False
            try:
                sent = self.target.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False
            self.queued -= sent
            if sent < len(data):
                self.queue.appendleft((due, data[sent:]))
                self.blocked = True
                return True
        return True


def relay(listener: socket.socket, server: Address, delay: float, stop: Connection) -> None:
    """Serves connections until something arrives at `stop`, or its other end is closed."""
    with suppress(OSError):
        _TIMER_SLACK.write_text("1")
    directions: list[_Direction] = []
    while True:
        now = time.monotonic()
        for direction in directions[:]:
            if not direction.send_due(now):
                directions.remove(direction)
                _close_if_unused(direction, directions)
        readable = [one for one in directions if not one.ended and one.queued < _MOST_QUEUED]
        writable = [one for one in directions if one.blocked]
        waits = [one.queue[0][0] for one in directions if one.queue and not one.blocked]
        sources: list[Any] = [listener, stop, *(one.source for one in readable)]
        ready, _, _ = select.select(
            sources,
            [one.target for one in writable],
            [],
            max(0.0, min(waits) - time.monotonic()) if waits else None,
        )
        if stop in ready:
            break
        if listener in ready:
            directions += _accept(listener, server)
        for direction in readable:
            if direction.source in ready:
                direction.receive(delay)
    for direction in directions:
        direction.source.close()


def _accept(listener: socket.socket, server: Address) -> list[_Direction]:
    client, _ = listener.accept()
    try:
        upstream = _connected(server)
    except OSError:
        client.close()
        return []
    for one in (client, upstream):
        one.setblocking(False)
        if one.family != socket.AF_UNIX:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return [_Direction(client, upstream), _Direction(upstream, client)]


def _connected(server: Address) -> socket.socket:
    if isinstance(server, str):
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(server)
        return upstream
    return socket.create_connection(server)


def _close_if_unused(direction: _Direction, others: list[_Direction]) -> None:
    if not any(other.source is direction.target for other in others):
        direction.source.close()
        direction.target.close()


@contextmanager
def relayed(server: Address, delay: float = DELAY) -> Iterator[tuple[str, int]]:
    """The address, on this machine, of a relay to a server."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        process = context.Process(target=relay, args=(listener, server, delay, theirs), daemon=True)
        process.start()
        theirs.close()
        address: tuple[str, int] = listener.getsockname()
    try:
        yield address
    finally:
        ours.close()
        process.join()


@contextmanager
def over_network(environment: Environment) -> Iterator[Environment]:
    """The same environment, whose server is behind a relay."""
    import psycopg

    with psycopg.connect(environment.database_url) as connection:
        info = connection.info
        user, password, database = quote(info.user), quote(info.password, safe=""), quote(info.dbname)
        local = info.host.startswith("/")
        server: Address = f"{info.host}/.s.PGSQL.{info.port}" if local else (info.hostaddr, info.port)

    def behind(address: tuple[str, int]) -> Environment:
        host, port = address
        return replace(environment, url=f"postgresql://{user}:{password}@{host}:{port}/{database}")

    with relayed(server) as address:
        added = round_trip(behind(address)) - round_trip(environment)
    # What the relay itself takes is a part of the delay, not on top of it.
    with relayed(server, max(0.0, DELAY - (added / 2 - DELAY))) as address:
        yield behind(address)


def round_trip(environment: Environment, count: int = 200) -> float:
    """The median in seconds, of an empty query."""
    import psycopg

    with psycopg.connect(environment.database_url, autocommit=True) as connection:
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            connection.execute(b"")
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
