"""Settings of a role or a database that change what SQL means, for `ALTER ROLE … SET`."""

from __future__ import annotations

# Those that a transaction begins with are the caller's on a connection that is bound, and the pooler's.
OF_TRANSACTIONS = {
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
}
HOSTILE = {
    "array_nulls": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "check_function_bodies": "off",
    "client_encoding": "LATIN1",
    "DateStyle": "German, DMY",
    "debug_parallel_query": "on",
    "default_tablespace": "nowhere",
    "enable_indexscan": "off",
    "exit_on_error": "on",
    "extra_float_digits": "-15",
    "from_collapse_limit": "1",
    "IntervalStyle": "sql_standard",
    "join_collapse_limit": "1",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "plan_cache_mode": "force_custom_plan",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "search_path": "",
    "standard_conforming_strings": "off",
    "synchronous_commit": "off",
    "TimeZone": "Pacific/Kiritimati",
    "transform_null_equals": "on",
    "work_mem": "64kB",
    "xmlbinary": "hex",
}
