"""The relay delays both directions, and passes on everything else as it is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.relay import relayed

DELAY = 0.02


@contextmanager
def echo_server() -> Iterator[tuple[str, int]]:
    """Sends back what it gets, and ends when its client does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        def echo(connection: socket.socket) -> None:
            with connection:
                while data := connection.recv(2**16):
                    connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()


@pytest.fixture(scope="module")
def relay() -> Iterator[tuple[str, int]]:
    with echo_server() as server, relayed(server, DELAY) as address:
        yield address


def received(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size > 0:
        part = connection.recv(size)
        assert part, "the relay ended too soon"
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def test_a_round_trip_takes_both_delays(relay: tuple[str, int]) -> None:
    with socket.create_connection(relay) as client:
        for _ in range(5):
            began = time.monotonic()
            client.sendall(b"question")
            assert received(client, 8) == b"question"
            assert time.monotonic() - began >= 2 * DELAY


def test_what_is_sent_without_waiting_is_delayed_once(relay: tuple[str, int]) -> None:
    """200 messages, one after the other, would take 8 seconds."""
    with socket.create_connection(relay) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        for number in range(200):
            client.sendall(number.to_bytes(2, "big"))
        answers = received(client, 400)
        assert time.monotonic() - began < 100 * DELAY
    assert answers == b"".join(number.to_bytes(2, "big") for number in range(200))


def test_more_than_fits_on_the_way_arrives_whole(relay: tuple[str, int]) -> None:
    """Both directions are full at once, which must not stop them."""
    data = b"".join(number.to_bytes(4, "big") for number in range(2**22))
    with socket.create_connection(relay) as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        assert received(client, len(data)) == data
        assert client.recv(1) == b"", "the end is passed on"
        sender.join()


def test_connections_do_not_wait_for_each_other(relay: tuple[str, int]) -> None:
    clients = [socket.create_connection(relay) for _ in range(20)]
    began = time.monotonic()
    for client in clients:
        client.sendall(b"question")
    for client in clients:
        assert received(client, 8) == b"question"
        client.close()
    assert time.monotonic() - began < 20 * DELAY


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        server = closed.getsockname()
    with relayed(server, 0.0) as address, socket.create_connection(address) as client:
        assert client.recv(1) == b""
