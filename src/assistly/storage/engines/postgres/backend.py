"""Storage on a PostgreSQL server, from version 15."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from ...records import PoolConnections
from ..sql.backend import SqlBackend, SqlStores
from .connections import LOCK_TIMEOUT
from .database import PostgresDatabase
from .documents import PostgresDocumentStore
from .events import PostgresEventStore
from .idempotency import PostgresIdempotencyStore
from .inspection import Inspection
from .jobs import PostgresJobStore
from .limits import TIMEOUT
from .maintenance import Maintenance
from .metrics import PostgresMetricStore
from .nonces import PostgresNonceStore
from .retention import PostgresRetentionStore
from .transfer import PostgresTransfer

_STORES = SqlStores(
    jobs=PostgresJobStore,
    documents=PostgresDocumentStore,
    events=PostgresEventStore,
    idempotency=PostgresIdempotencyStore,
    metrics=PostgresMetricStore,
    nonces=PostgresNonceStore,
    retention=PostgresRetentionStore,
    transfer=PostgresTransfer,
)

_SIZES = """
    SELECT class.relname::text, pg_catalog.pg_total_relation_size(class.oid)
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
    WHERE space.nspname = %(schema)s AND class.relkind = 'r'
        AND pg_catalog.starts_with(class.relname::text, 'assistly_')
    ORDER BY 2 DESC, 1
"""


class PostgresBackend(SqlBackend):
    """Storage in the schema `schema` of a PostgreSQL server, from version 15.

    `database_url` is any libpq URL or connection string. `pool_size` is the most connections open at once
    (default: 10), besides one for notifications and one for maintenance. It connects on the first use, which
    with `auto_migrate` also applies pending migrations.

    `prepare_threshold` is how often a statement runs on a connection before it is prepared there (default:
    2; None: never). Behind a pooler that shares sessions, none is prepared in any case.

    `fast_path` sends statements to libpq without the driver's cursor. None, the default, does so with the
    versions of psycopg that it is tested with (3.3), unless a tracer has patched the driver or its cursors;
    True always does, False never.

    `lock_timeout` is how long a call waits for each lock that another transaction holds, before it raises
    StorageUnavailable (default: 10 seconds; at least a millisecond). A `lock_timeout` that the URL, the role
    or the database sets is kept instead. Waiting for migrations has no limit. Behind a pooler that shares
    sessions, the limit holds in transactions only. Bound connections keep theirs.

    `timeout` is how long a call waits for the server's answers (default: 30 seconds; above 0), on bound
    connections, too. Then it raises StorageUnavailable, or OutcomeUnknown if the server may still write.
    docs/operating.md says what has other limits, such as batches.

    Raises ConfigurationError for a wrong URL, pool size, schema or timeout.
    """

    def __init__(
        self,
        database_url: str,
        pool_size: int = 10,
        *,
        schema: str = "public",
        auto_migrate: bool = True,
        prepare_threshold: int | None = 2,
        fast_path: bool | None = None,
        lock_timeout: timedelta = LOCK_TIMEOUT,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        database = PostgresDatabase(
            database_url,
            pool_size,
            schema=schema,
            auto_migrate=auto_migrate,
            prepare_threshold=prepare_threshold,
            fast_path=fast_path,
            lock_timeout=lock_timeout,
            timeout=timeout,
        )
        super().__init__(database, _STORES)
        self._ping = database.ping
        self.on_schema = database.on_schema
        self._maintenance = Maintenance(
            database.target, f"{database.dialect.quoted_schema}.assistly_queue_jobs", database.limits
        )
        self._schema = schema
        self.call_limit = database.limits.seconds
        self._pool_connections: Callable[[], PoolConnections] = lambda: database.connections
        self._inspection = partial(Inspection, database.target, database.dialect, database.limits)
        self._label = f"{database.target.label} schema={schema}"

    def ping(self) -> None:
        """Make one round trip, in five seconds at most once the schema was prepared."""
        self._ping(f"SELECT pg_catalog.count(*) FROM {self._database.dialect.t}retention")

    def maintain(self) -> None:
        """Vacuum the table of jobs, if it holds enough dead rows to slow claims down."""
        self._maintenance.run()

    def sizes(self) -> dict[str, int]:
        """The bytes of each table of this package, with its indexes."""
        return dict(self._database.select(_SIZES, {"schema": self._schema}))

    def connections(self) -> PoolConnections:
        """The connections of the pool, without those for notifications and maintenance."""
        return self._pool_connections()

    def inspect(self) -> Inspection:
        """Open a connection for looking at the server, whatever its schema is like. The caller closes it."""
        return self._inspection()

    def close(self) -> None:
        """Close all connections, and cancel a vacuum in progress."""
        self._maintenance.close()
        super().close()

    def __repr__(self) -> str:
        return f"PostgresBackend({self._label})"
