"""Make the golden databases of the newest level of each engine, where they are missing.

pg_dump is that of the extra `test`, and so is the server.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .making import database, levels, make_postgres, make_sqlite

TESTS = Path(__file__).parents[1]


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m tests.golden",
        description="Makes a database of the newest migration of each engine in tests/golden, "
        "where it is missing. The tests of upgrades open it with later versions. "
        "Commit the files that it prints.",
    ).parse_args()
    missing = [
        engine for engine in ("sqlite", "postgres") if not database(engine, levels(engine)[-1]).exists()
    ]
    for engine in missing:
        level = levels(engine)[-1]
        if engine == "sqlite":
            make_sqlite(level)
        else:
            _make_postgres(level)
        print(f"{database(engine, level)}: {database(engine, level).stat().st_size} bytes")
    if not missing:
        print("nothing to do: tests/golden has a database of the newest migration of each engine")


def _make_postgres(level: str) -> None:
    sys.path.insert(0, str(TESTS))
    from postgres_server import TemporaryServer

    server = TemporaryServer()
    try:
        make_postgres(level, server.url, str(server.program("pg_dump")))
    finally:
        server.close()


if __name__ == "__main__":
    main()
