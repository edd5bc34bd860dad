"""The pages about the transactions of other libraries: their code runs, from top to bottom."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from assistly.storage import open_storage

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def test_the_code_for_sqlalchemy_runs(tmp_path: Path) -> None:
    page = (PAGES / "sqlalchemy.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_code_for_psycopg_runs(own_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (PAGES / "transactions.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(import os\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("DATABASE_URL", own_database)
    for _ in range(2):
        exec(block, {"open_storage": open_storage})
    with psycopg.connect(own_database) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM assistly_queue_jobs").fetchone() == (2,)
