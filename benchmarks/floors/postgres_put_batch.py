"""Put if absent in batches of 100: a batch is one statement, one array to send, and one commit.

COPY cannot skip what is there, and by way of a temporary table it takes a second statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..model import Numbers, Round, Surroundings, throughput
from ..workload import in_batches, nonce
from .alone import run_alone
from .postgres_put import nonces_table, now_ms

_INSERT = """
INSERT INTO nonces (nonce, timestamp_ms) SELECT given, %s FROM unnest(%s::text[]) AS given
ON CONFLICT DO NOTHING RETURNING nonce
"""


@contextmanager
def floor(at: Surroundings) -> Iterator[Round]:
    with nonces_table(at) as (_, connection), connection.cursor() as cursor:
        numbers = Numbers()

        def prepare(count: int) -> Sequence[list[str]]:
            return in_batches(map(nonce, numbers(count)))

        def put(batches: Sequence[list[str]]) -> int:
            return sum(_put(batch) for batch in batches)

        def _put(batch: list[str]) -> int:
            new = {row[0] for row in cursor.execute(_INSERT, (now_ms(), batch), prepare=True)}
            return [name in new for name in batch].count(True)

        yield throughput(put, prepare)


if __name__ == "__main__":
    run_alone(floor, 20_000)
