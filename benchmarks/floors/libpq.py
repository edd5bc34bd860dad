"""The driver's wrapper of libpq, without a cursor around it: what a prepared statement costs at least."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from .postgres_table import Connection


class Prepared:
    """One statement, with parameters as text."""

    def __init__(self, connection: Connection, statement: str) -> None:
        self._link = connection.pgconn
        self._link.prepare(b"floor", statement.encode())
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)

    def __call__(self, *values: str) -> PGresult:
        link = self._link
        link.send_query_prepared(b"floor", [value.encode() for value in values])
        link.flush()
        while link.is_busy():
            self._poll.poll()
            link.consume_input()
        (answer,) = iter(link.get_result, None)
        return answer
