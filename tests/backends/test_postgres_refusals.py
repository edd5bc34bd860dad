"""What a server or a pooler says when it takes no connection, and what nobody may read in it."""

from __future__ import annotations

import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg
import pytest

from assistly.storage import ConfigurationError, PostgresBackend, Storage, StorageError, StorageUnavailable
from assistly.storage.engines.postgres.connections import connect
from assistly.storage.engines.postgres.conninfo import Target


class RefusingServer:
    """Ends each connection with an error: at once, or at the first statement after the log-in."""

    def __init__(self, code: str, text: str, *, after_login: bool = False) -> None:
        fields = f"SFATAL\0VFATAL\0C{code}\0M{text}\0\0".encode()
        self._refusal = b"E" + struct.pack("!i", len(fields) + 4) + fields
        self._after_login = after_login
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return f"postgresql://bot:s3cret@127.0.0.1:{port}/shop?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                client.recv(65536)
                if self._after_login:
                    parameters = (b"server_encoding\0UTF8\0", b"client_encoding\0UTF8\0")
                    client.sendall(
                        b"R\0\0\0\x08\0\0\0\0"
                        + b"".join(b"S" + struct.pack("!i", len(each) + 4) + each for each in parameters)
                        + b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I"
                    )
                    client.recv(65536)
                client.sendall(self._refusal)


@pytest.fixture
def refusing() -> Iterator[Callable[..., RefusingServer]]:
    servers: list[RefusingServer] = []

    def start(code: str, text: str, **options: bool) -> RefusingServer:
        servers.append(RefusingServer(code, text, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def error_of(url: str) -> StorageError:
    with Storage(PostgresBackend(url, pool_size=1), auto_prune=False) as storage:
        with pytest.raises(StorageError) as caught:
            storage.ping()
        return caught.value


SETTINGS = [
    # PostgreSQL
    ("28P01", 'password authentication failed for user "bot"'),
    ("28000", 'no pg_hba.conf entry for host "1.2.3.4", user "bot", database "shop", no encryption'),
    ("28000", 'role "bot" does not exist'),
    ("28000", 'role "bot" is not permitted to log in'),
    ("3D000", 'database "shop" does not exist'),
    ("42501", 'permission denied for database "shop"'),
    ("42704", 'unrecognized configuration parameter "serch_path"'),
    ("22023", 'invalid value for parameter "client_encoding": "x"'),
    # PgBouncer
    ("08P01", "no such database: shop"),
    ("08P01", "no such user: bot"),
    ("08P01", "no such user"),
    ("08P01", "password authentication failed"),
    ("28P01", "SASL authentication failed"),
    ("08P01", "unsupported startup parameter: options"),
    ("08P01", "unsupported startup parameter in options: geqo"),
    ("08P01", "invalid server parameter"),
    ("08P01", 'database "shop" is disabled'),
    ("08P01", "bouncer config error"),
    ("08P01", "login rejected"),
    ("08P01", "SSL required"),
    (
        "08P01",
        'server login has been failing, cached error: database "shop" does not exist (server_login_retry)',
    ),
    ("08P01", "server login failed: wrong password type"),
    ("3D000", 'server login failed: FATAL database "shop" does not exist'),
    # Odyssey
    ("08P01", "odyssey: c7b9d: route for 'shop.bot' is not found"),
    ("28P01", "odyssey: c7b9d: incorrect user"),
    ("08P01", "odyssey: c7b9d: SSL is required"),
    # pgcat, PgDog, Supavisor, RDS Proxy
    ("58000", 'No pool configured for database: "shop", user: "bot"'),
    ("28000", 'password for user "bot" and database "shop" is wrong, or the database does not exist'),
    ("XX000", "Tenant or user not found"),
    ("08P01", "This RDS proxy has no credentials for the role bot. Check the credentials for this role"),
]
OUTAGES = [
    ("57P03", "the database system is starting up"),
    ("57P03", "the database system is shutting down"),
    ("57P03", "the database system is not accepting connections"),
    ("53300", "sorry, too many clients already"),
    ("53300", 'too many connections for role "bot"'),
    ("08P01", "pooler is shutting down"),
    ("08P01", "no more connections allowed (max_client_conn)"),
    ("08P01", "query_wait_timeout"),
    ("08P01", "client_login_timeout (server down)"),
    ("08P01", "server login has been failing, try again later (server_login_retry)"),
    ("08P01", "server conn crashed?"),
    ("08006", "odyssey: c7b9d: failed to get remote server connection"),
    ("53300", "odyssey: c7b9d: too many client tcp connections (global client_max)"),
    ("58000", "could not get connection from the pool - AllServersDown"),
    ("58000", 'Pool down for database: "shop", user: "bot"'),
]


@pytest.mark.parametrize("after_login", [False, True])
@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [(*each, ConfigurationError) for each in SETTINGS] + [(*each, StorageUnavailable) for each in OUTAGES],
)
def test_a_refusal(
    refusing: Callable[..., RefusingServer], code: str, text: str, kind: type[StorageError], after_login: bool
) -> None:
    target = Target.parse(refusing(code, text, after_login=after_login).url)
    with pytest.raises(kind) as caught:
        connect(target, prepare_threshold=None, fast_path=None)
    assert text in str(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_parameter_that_a_pooler_refuses_is_named_with_the_cure(
    refusing: Callable[..., RefusingServer],
) -> None:
    error = error_of(refusing("08P01", "unsupported startup parameter: options").url)
    assert "'options'" in str(error)
    assert "ignore_startup_parameters" in str(error)


PASSWORD = "Zq7w"
STRAY = [
    f"postgresql://bot:{PASSWORD}@{PASSWORD}@127.0.0.1:1/shop",
    f"postgresql://bot:{PASSWORD}/{PASSWORD}@127.0.0.1:1/shop",
    f"postgresql://bot:12/{PASSWORD}@127.0.0.1:1/shop",
    f"postgresql://bot:12/{PASSWORD}?connect_timeout=3@127.0.0.1:1/shop",
    f"postgresql://bot:{PASSWORD}%{PASSWORD}@127.0.0.1:1/shop",
    f"postgresql://bot:{PASSWORD}?@{PASSWORD}@127.0.0.1:1/shop",
    f"postgresql://bot:x@{PASSWORD}@127.0.0.1:1/shop",
    f"postgresql://bot:x@{PASSWORD},{PASSWORD}@127.0.0.1:1/shop",
    f"postgresql://bot@shop:{PASSWORD}@127.0.0.1:1/shop",
    f"postgresql://127.0.0.1:1/shop?user=bot&password={PASSWORD}&port={PASSWORD}",
    f"postgresql:/bot:{PASSWORD}@127.0.0.1:1/shop",
    f"host=127.0.0.1 port=1 user=bot password={PASSWORD} {PASSWORD}",
    f"host=x@{PASSWORD} port=1 password={PASSWORD}",
]


@pytest.mark.parametrize("url", STRAY)
def test_special_characters_in_a_password_are_refused_before_they_are_taken_for_something_else(
    url: str,
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PostgresBackend(url)
    told = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in told.partition("Error: ")[2]
    assert "DATABASE_URL" in told
    assert caught.value.__cause__ is None
    # What pytest handles meanwhile may be the context, but no error of the driver, which repeats the URL.
    assert not isinstance(caught.value.__context__, psycopg.Error | ValueError)


@pytest.mark.parametrize("url", STRAY[:8])
def test_the_cure_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"%40|percent-encoded"):
        PostgresBackend(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bot:%s@127.0.0.1:1/shop",
        "postgresql://bot:%s@127.0.0.1:1,127.0.0.1:1/shop",
        "postgresql://127.0.0.1:1/shop?user=bot&password=%s&sslpassword=%s",
        "host=127.0.0.1,127.0.0.1 port=1 user=bot dbname=shop password=%s",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    """Not even where it is a part of a word that the message needs."""
    for password in ("Zq7w%40%2F%23%3A%25" if "://" in url else "'Zq7w@/#:%'", "i"):
        backend = PostgresBackend(url.replace("%s", password), pool_size=1)
        error = error_of(url.replace("%s", password))
        assert isinstance(error, StorageUnavailable)
        told = "".join(traceback.format_exception(error)) + repr(backend) + repr(vars(backend))
        assert "Zq7w" not in told
        assert "failed" in str(error)
        assert "***" not in told
        backend.close()


def test_a_word_that_is_also_the_password_is_left_in_the_message(
    refusing: Callable[..., RefusingServer],
) -> None:
    url = refusing("3D000", 'database "shop" does not exist').url.replace("s3cret", "shop")
    assert 'database "shop" does not exist' in str(error_of(url))


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("postgresql://u:a#b@h/d", "postgresql://u@h/d"),
        ("postgresql://u:a:b@h/d", "postgresql://u@h/d"),
        ("postgresql://u:a?b@h/d", "postgresql://u@h/d"),
        ("postgresql://u@%2Frun%2Fpostgresql/d", "postgresql://u@/run/postgresql/d"),
        ("postgresql://h/d?application_name=me%40work", "postgresql://h/d"),
        ("postgresql://u:a@h/d?application_name=me@work", "postgresql://u@h/d"),
        ("host=@abstract user=u", "postgresql://u@@abstract/"),
    ],
)
def test_what_libpq_reads_as_it_was_meant_is_taken(url: str, label: str) -> None:
    assert Target.parse(url).label == label
