"""Many jobs at once: COPY is the fastest way in. The server gives the ids, and nobody learns them.

COPY in the text format, row by row, is what the goals are set against. The binary format is faster
where the driver dominates, and is measured beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from ..model import Round, Surroundings, throughput
from ..workload import PLATFORM, content
from .alone import run_alone
from .postgres_table import clear, jobs_table

_COPY = "COPY jobs (platform, content, due_at) FROM STDIN"
_TYPES = ("text", "text", "timestamptz")
_Rows = Sequence[tuple[str, str, datetime]]


@contextmanager
def floor(at: Surroundings, *, binary: bool = False) -> Iterator[Round]:
    with jobs_table(at) as (_, connection), connection.cursor() as cursor:

        def prepare(count: int) -> _Rows:
            clear(connection)
            due = datetime.now(UTC)
            return [(PLATFORM, content(number), due) for number in range(count)]

        def insert(rows: _Rows) -> int:
            with cursor.copy(f"{_COPY} (FORMAT {'BINARY' if binary else 'TEXT'})") as copy:
                if binary:
                    copy.set_types(_TYPES)
                for row in rows:
                    copy.write_row(row)
            return cursor.rowcount

        yield throughput(insert, prepare)


if __name__ == "__main__":
    run_alone(floor, 10_000)
