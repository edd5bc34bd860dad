"""Makes the mutants: of the sources, in a fixed order with names that stay, or from patches."""

from __future__ import annotations

import ast
import os
import random
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from .edits import Edit, Mutant, Source, shown
from .python import python_edits
from .sql import sql_edits

_STORAGE = "src/assistly/storage"
ENGINES = {
    "memory": (f"{_STORAGE}/engines/memory.py", f"{_STORAGE}/engine/keyvalue/*", f"{_STORAGE}/engine/base/*"),
    "sqlite": (f"{_STORAGE}/engines/sqlite/*", f"{_STORAGE}/engines/sql/*"),
    "postgres": (f"{_STORAGE}/engines/postgres/*", f"{_STORAGE}/engines/sql/*"),
}
COMMON = (
    f"{_STORAGE}/stores/*",
    f"{_STORAGE}/transitions.py",
    f"{_STORAGE}/batching.py",
    f"{_STORAGE}/transactions.py",
    f"{_STORAGE}/pruning.py",
    f"{_STORAGE}/retry.py",
    f"{_STORAGE}/retention.py",
    "src/assistly/worker/*",
)
_WITH_SQL = ("/engines/sql/", "/engines/sqlite/", "/engines/postgres/")


def globs_of(engine: str | None) -> tuple[str, ...]:
    """The files that are mutated: an engine's own ones, or all."""
    if engine is not None:
        return ENGINES[engine]
    return (*dict.fromkeys(glob for globs in ENGINES.values() for glob in globs), *COMMON)


class NotApplicable(Exception):
    """A patch does not fit this tree."""


def mutants_of(root: Path, globs: Sequence[str], lines: Mapping[str, set[int]] | None = None) -> list[Mutant]:
    """All mutants of the files; with `lines` only those that change one of these."""
    found: list[Mutant] = []
    for file in sorted((root / "src").rglob("*.py")):
        path = file.relative_to(root).as_posix()
        if any(fnmatch(path, glob) for glob in globs) and (lines is None or path in lines):
            found += _of_file(path, file.read_text(encoding="utf-8"), None if lines is None else lines[path])
    return found


def _of_file(path: str, text: str, lines: set[int] | None) -> Iterator[Mutant]:
    source = Source(path, text)
    edits = [*python_edits(source)]
    if any(part in path for part in _WITH_SQL):
        for node in _strings(source.tree):
            edits += sql_edits(source.segment(node), source.span(node)[0])
    numbers: Counter[str] = Counter()
    seen: set[str] = set()
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end, edit.operator)):
        new = text[: edit.start] + edit.new + text[edit.end :]
        line = source.line_of(edit.start)
        name = f"{path.removeprefix('src/assistly/')}:{source.place_of(line)}:{edit.operator}"
        numbers[name] += 1
        if new in seen or (lines is not None and line not in lines):
            continue
        seen.add(new)
        yield Mutant(f"{name}:{numbers[name]}", {path: new}, line, _described(edit, text))


def _described(edit: Edit, text: str) -> str:
    old = shown(text[edit.start : edit.end])
    return f"`{old}` -> `{shown(edit.new)}`" if edit.new.strip() else f"without `{old}`"


def compiles(mutant: Mutant) -> bool:
    """A few edits leave no valid Python: those are no mutants."""
    try:
        for path, text in mutant.files.items():
            compile(text or "", path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def _strings(tree: ast.Module) -> Iterator[ast.expr]:
    """The outermost expressions of strings that are neither docstrings nor in an error."""

    def walk(node: ast.AST) -> Iterator[ast.expr]:
        if isinstance(node, ast.Raise) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            return
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str)
        ):
            yield node
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return walk(tree)


def sample(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """One of each operator in turn, at random: else the commonest, which any test kills, would be most."""
    by_operator: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_operator.setdefault(mutant.id.split(":")[2], []).append(mutant)
    shuffled = random.Random(seed)
    groups = [*by_operator.values()]
    shuffled.shuffle(groups)
    for group in groups:
        shuffled.shuffle(group)
    chosen: set[str] = set()
    while len(chosen) < count and any(groups):
        for group in groups:
            while group and len(chosen) < count:
                if compiles(mutant := group.pop()):
                    chosen.add(mutant.id)
                    break
    return [mutant for mutant in mutants if mutant.id in chosen]


def changed_lines(root: Path, revision: str) -> dict[str, set[int]]:
    """The lines of src that differ from a revision."""
    diff = subprocess.run(
        ["git", "diff", "-U0", revision, "--", "src"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    lines: dict[str, set[int]] = {}
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            lines[path := line.removeprefix("+++ b/")] = set()
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first = int(hunk[1])
            lines[path].update(range(first, first + int(hunk[2] or 1)))
    return lines


def from_patch(root: Path, patch: Path) -> Mutant:
    """The files of `root` as the patch makes them. The folder itself is left as it is."""
    text = patch.read_text(encoding="utf-8")
    names = dict.fromkeys(
        name
        for _, name in re.findall(r"^(---|\+\+\+) (?:[ab]/)?(\S+)", text, re.MULTILINE)
        if name != "/dev/null"
    )
    with tempfile.TemporaryDirectory(prefix="assistly-patch-") as folder:
        copy = Path(folder)
        for name in names:
            if (root / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes((root / name).read_bytes())
        _apply(copy, patch.resolve())
        files = {
            name: (copy / name).read_text(encoding="utf-8") if (copy / name).is_file() else None
            for name in names
        }
    hunk = re.search(r"^@@ -(\d+)", text, re.MULTILINE)
    return Mutant(patch.name, files, int(hunk[1]) if hunk else 0, ", ".join(names))


def _apply(folder: Path, patch: Path) -> None:
    strip = "1" if re.search(r"^\+\+\+ b/", patch.read_text(encoding="utf-8"), re.MULTILINE) else "0"
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    ways = [
        ["git", "apply", f"-p{strip}", "--recount", "--unidiff-zero", str(patch)],
        ["patch", f"-p{strip}", "--batch", "--no-backup-if-mismatch", "-i", str(patch)],
    ]
    said = []
    for way in ways:
        try:
            run = subprocess.run(
                way, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            continue
        if run.returncode == 0:
            return
        said.append((run.stderr or run.stdout).strip())
    raise NotApplicable(" / ".join(said) or "neither git nor patch is installed")
