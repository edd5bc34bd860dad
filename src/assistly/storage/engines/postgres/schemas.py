"""Drops a schema that was made for a short time, such as that of a test."""

from __future__ import annotations

from contextlib import closing

import psycopg

from .connections import raw_connection
from .conninfo import Target
from .dialect import quote
from .errors import translate


def drop_schema(database_url: str, schema: str) -> None:
    """Drop the schema with everything in it, if it exists. Raises a StorageError if it cannot be dropped."""
    statement = f"DROP SCHEMA IF EXISTS {quote(schema)} CASCADE"
    with closing(raw_connection(Target.parse(database_url), prepare_threshold=None)) as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            raise translate(error) from error
