"""The tool for mutation testing: what it makes of sources, and what it says of mutants."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from mutation import making
from mutation.changes import Mentions, changes
from mutation.edits import Mutant

TOOL = Path(making.__file__).parent

SQL_FILE = "src/assistly/storage/engines/sqlite/jobs.py"
SQL = '''
"""A docstring: WHERE a < b AND c."""
def claim(p, limit):
    return f"""
        UPDATE jobs SET claim = claim + 1, worker = {p.worker}, at = coalesce({p.at}, due)
        WHERE id = {p.id} AND {p.held} AND due <= {p.now} {"" if limit is None else f"LIMIT {limit:d}"}
        ORDER BY due, id FOR UPDATE SKIP LOCKED
    """
'''


def mutants_of(tmp_path: Path, path: str, text: str) -> list[Mutant]:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dedent(text), encoding="utf-8")
    return [mutant for mutant in making.mutants_of(tmp_path, [path]) if making.compiles(mutant)]


def lines_without_space(mutant: Mutant, path: str) -> set[str]:
    return {" ".join(line.split()) for line in str(mutant.files[path]).splitlines()}


UPDATE = "UPDATE jobs SET claim = claim + 1, worker = {p.worker}, at = coalesce({p.at}, due)"
WHERE = "WHERE id = {p.id} AND {p.held} AND due <= {p.now} "
LIMITED = '{"" if limit is None else f"LIMIT {limit:d}"}'


@pytest.mark.parametrize(
    ("operator", "line"),
    [
        ("drop-assignment", "UPDATE jobs SET worker = {p.worker}, at = coalesce({p.at}, due)"),
        ("drop-assignment", "UPDATE jobs SET claim = claim + 1, at = coalesce({p.at}, due)"),
        ("coalesce-swap", UPDATE.replace("{p.at}, due", "due, {p.at}")),
        ("coalesce-first", "UPDATE jobs SET claim = claim + 1, worker = {p.worker}, at = {p.at}"),
        ("plus-one", "UPDATE jobs SET claim = claim + 0, worker = {p.worker}, at = coalesce({p.at}, due)"),
        ("drop-first-condition", "WHERE {p.held} AND due <= {p.now} " + LIMITED),
        ("drop-condition", "WHERE id = {p.id} AND due <= {p.now} " + LIMITED),
        ("le-lt", "WHERE id = {p.id} AND {p.held} AND due < {p.now} " + LIMITED),
        ("limit", WHERE + '{"" if limit is None else f""}'),
        ("skip-locked", "ORDER BY due, id FOR UPDATE"),
        ("for-update", "ORDER BY due, id"),
        ("reverse", "ORDER BY due DESC, id FOR UPDATE SKIP LOCKED"),
        ("tie", "ORDER BY due FOR UPDATE SKIP LOCKED"),
        ("order", "FOR UPDATE SKIP LOCKED"),
    ],
)
def test_sql_in_strings_is_mutated(operator: str, line: str, tmp_path: Path) -> None:
    made = mutants_of(tmp_path, SQL_FILE, SQL)
    of_operator = [mutant for mutant in made if f":sql-{operator}:" in mutant.id]
    assert any(line in lines_without_space(mutant, SQL_FILE) for mutant in of_operator)


def test_docstrings_and_errors_are_left_alone(tmp_path: Path) -> None:
    text = '''
        def check(value):
            """WHERE a < b AND c"""
            raise ValueError("1 < 2 AND this", value > 3)
    '''
    assert mutants_of(tmp_path, SQL_FILE, text) == []


def test_names_stay_when_lines_move(tmp_path: Path) -> None:
    text = "def one(a, b):\n    return a < b\n\ndef two(a):\n    return not a\n"
    before = mutants_of(tmp_path, "src/a.py", text)
    after = mutants_of(tmp_path, "src/a.py", f"import os\n\nX = os\n{text}")
    assert [mutant.id for mutant in before] == [mutant.id for mutant in after]
    assert len({mutant.id for mutant in before}) == len(before) == 4


def test_a_sample_is_the_same_for_one_seed(tmp_path: Path) -> None:
    made = mutants_of(tmp_path, SQL_FILE, SQL)
    assert making.sample(made, 5, 1) == making.sample(made, 5, 1) != making.sample(made, 5, 2)


def test_a_statement_concerns_the_functions_that_run_it(tmp_path: Path) -> None:
    text = """
        HELD = "status = 'processing'"
        POST = f"UPDATE x WHERE {HELD} AND 1"
        class JobStatements:
            def __init__(self):
                self.get = f"SELECT {HELD}"
                self.other = "SELECT 1"
        class Store:
            def post(self): return POST
            def get(self): return self.sql.get
            def list(self): return self.sql.other
    """
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(old := dedent(text), encoding="utf-8")
    mentions = Mentions(tmp_path)

    def concerned(before: str, after: str) -> set[str]:
        changed = changes(old, old.replace(before, after))
        return {name for _, name in mentions.concerned("src/a.py", changed, ())}

    assert concerned("'processing'", "'posted'") == {"Store.post", "Store.get"}
    assert concerned("SELECT 1", "SELECT 2") == {"Store.list"}
    assert concerned("AND 1", "AND 2") == {"Store.post"}


PROJECT = {
    "pyproject.toml": """
        [tool.setuptools.package-dir]
        "" = "src"
        [tool.pytest.ini_options]
        pythonpath = ["src"]
    """,
    "src/assistly/__init__.py": "",
    "src/assistly/counting.py": """
        STEP = "1"

        def add(number):
            return number + int(STEP)

        def unused(number):
            return number < 3

        def count(limit):
            number = 0
            while number < limit:
                number = add(number)
            return number
    """,
    "tests/test_memory.py": """
        from assistly.counting import count, unused

        def test_count():
            assert count(3) == 3

        def test_unused():
            unused(5)
    """,
}  # fmt: skip

PATCHES = {
    "function": ("    return number + int(STEP)", "    return number + 2 * int(STEP)"),
    "constant": ('STEP = "1"', 'STEP = "2"'),
    "hangs": ("        number = add(number)", "        add(number)"),
    "import": ('STEP = "1"', "import nothing_of_that_name"),
    "harmless": ("    return number < 3", "    return number <= 3"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name, text in PROJECT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(dedent(text).lstrip(), encoding="utf-8")
    shutil.copytree(TOOL, root / "tests" / "mutation", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "patches").mkdir()
    return root


def write_patch(folder: Path, name: str, old: str, new: str) -> None:
    lines = (PROJECT["src/assistly/counting.py"]).strip("\n")
    number = dedent(lines).splitlines().index(old) + 1
    path = "src/assistly/counting.py"
    text = f"--- a/{path}\n+++ b/{path}\n@@ -{number} +{number} @@\n-{old}\n+{new}\n"
    (folder / f"{name}.patch").write_text(text, encoding="utf-8")


def test_patches_are_tried_in_a_copy(project: Path, tmp_path: Path) -> None:
    for name, (old, new) in PATCHES.items():
        write_patch(tmp_path / "patches", name, old, new)
    (tmp_path / "patches" / "old.patch").write_text("--- a/src/x.py\n+++ b/src/x.py\n@@ -1 +1 @@\n-a\n+b\n")
    before = {path: path.read_bytes() for path in project.rglob("*.py")}
    results = tmp_path / "results.json"
    command = [
        "--mutants",
        str(tmp_path / "patches"),
        "--engine",
        "memory",
        "--hang",
        "1",
        "--json",
        str(results),
    ]
    run = subprocess.run(
        [sys.executable, "-m", "tests.mutation", *command, "--json", str(results)],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2, run.stdout + run.stderr
    found = {one["id"].partition(".")[0]: one for one in json.loads(results.read_text())}
    assert {name: one["outcome"] for name, one in found.items()} == {
        "function": "killed",
        "constant": "killed",
        "hangs": "killed",
        "import": "killed",
        "harmless": "survived",
        "old": "not applicable",
    }
    assert found["function"]["by"] == "tests/test_memory.py::test_count"
    assert found["hangs"]["reason"] == "hangs"
    assert found["import"]["reason"] == "cannot be imported"
    assert "survived: harmless.patch" in run.stdout
    assert {path: path.read_bytes() for path in project.rglob("*.py")} == before


def test_a_function_that_is_added_leaves_the_others_known() -> None:
    old = "import os\n\ndef one(a):\n    return a\n\ndef two(a):\n    return a\n"
    new = old.replace("return a", "return helper(a)", 1)
    found = changes(old, f"{new}\ndef helper(a):\n    return a\n")
    assert (found.functions, found.beyond) == ({"one"}, True)
