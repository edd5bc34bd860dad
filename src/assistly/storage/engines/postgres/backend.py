"""Storage on a PostgreSQL server, from version 15."""

from __future__ import annotations

from ..sql.backend import SqlBackend, SqlStores
from .database import PostgresDatabase
from .events import PostgresEventStore
from .idempotency import PostgresIdempotencyStore
from .jobs import PostgresJobStore
from .metrics import PostgresMetricStore
from .nonces import PostgresNonceStore
from .retention import PostgresRetentionStore

_STORES = SqlStores(
    jobs=PostgresJobStore,
    events=PostgresEventStore,
    idempotency=PostgresIdempotencyStore,
    metrics=PostgresMetricStore,
    nonces=PostgresNonceStore,
    retention=PostgresRetentionStore,
)


class PostgresBackend(SqlBackend):
    """`database_url` is any libpq URL or connection string.

    Tables are in `schema`. `prepare_threshold` is how often a statement runs on a connection
    before it is prepared there; None, where a pooler in between cannot keep prepared statements.
    """

    def __init__(
        self,
        database_url: str,
        pool_size: int = 10,
        *,
        schema: str = "public",
        auto_migrate: bool = True,
        prepare_threshold: int | None = 2,
    ) -> None:
        database = PostgresDatabase(
            database_url,
            pool_size,
            schema=schema,
            auto_migrate=auto_migrate,
            prepare_threshold=prepare_threshold,
        )
        super().__init__(database, _STORES)
        self._label = f"{database.target.label} schema={schema}"

    def __repr__(self) -> str:
        return f"PostgresBackend({self._label})"
