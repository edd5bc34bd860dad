"""Measures one contender of one row on demand, for `benchmarks.compare`: a count in, its figures out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .model import Environment
from .rows import ROWS


def main() -> None:
    request = json.loads(sys.argv[1])
    (row,) = (row for row in ROWS if row.key == request["row"])
    (contender,) = (one for one in row.contenders if one.name == request["contender"])
    environment = Environment(request["url"], Path(request["folder"]), request["size"], request["pool_size"])
    with contender.open(environment) as measure:
        measure(max(1, row.sizes[environment.size] // 10))
        for line in sys.stdin:
            sys.stdout.write(f"{json.dumps(measure(int(line)))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
