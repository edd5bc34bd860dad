"""The blocks of code on a page of the documentation, and a process that runs them in order.

Every ```python block runs, in one module for each page, which is named `page`: what is below
`if __name__ == "__main__":` does not run. Comments before a block say otherwise:

- `<!-- file: bot.py -->`: it is written to this file, and not run;
- `<!-- run -->`: a ```sh block that runs, too; others are for the reader;
- `<!-- output -->`: a ```text block with lines that the ```sh block before it printed, in any order, since
  workers are many. In them, `…` stands for anything;
- `<!-- not run: a reason -->`: a ```python block that does not run. On the first line of a page: none does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]

_BLOCK = re.compile(
    r"^(?:<!-- (?P<comment>.+?) -->\n+)?"
    r"(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_PAGE_NOT_RUN = re.compile(r"\A<!-- not run: .{20,} -->\n", re.DOTALL)
_SECONDS = 120

_RUNNER = """
import re, subprocess, sys
from pathlib import Path
from types import ModuleType

sys.modules["page"] = page = ModuleType("page")
for kind, name, line, code in BLOCKS:
    if kind == "file":
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(code, encoding="utf-8")
    elif kind == "sh":
        command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        printed = done.stdout.splitlines()
        print(done.stdout)
        done.check_returncode()
    elif kind == "output":
        for wanted in code.splitlines():
            pattern = re.escape(wanted).replace("…", ".*")
            assert any(re.fullmatch(pattern, found.rstrip()) for found in printed), f"{name}: {wanted}"
    else:
        exec(compile("\\n" * (line - 1) + code, name, "exec"), vars(page))
"""


@dataclass(frozen=True)
class Block:
    kind: str
    """`python`, `sh`, `file` or `output`."""
    name: str
    """The page, or the file that it is."""
    line: int
    code: str


def blocks(page: Path) -> Iterator[Block]:
    """What a page runs or writes."""
    text = page.read_text(encoding="utf-8")
    if _PAGE_NOT_RUN.match(text):
        return
    for match in _BLOCK.finditer(text):
        comment, language = match["comment"] or "", match["language"]
        code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start("code")) + 1
        if comment.startswith("file: "):
            yield Block("file", comment.removeprefix("file: "), line, code)
        elif comment == "output":
            yield Block("output", page.name, line, code)
        elif (language == "python" and not re.match(r"not run: .{20,}", comment)) or (
            language == "sh" and comment == "run"
        ):
            yield Block(language, page.name, line, code)


def run(page: Path, folder: Path) -> None:
    """Run a page in this folder, without any variable of the environment that is a setting."""
    rows = [(block.kind, block.name, block.line, block.code) for block in blocks(page)]
    script = folder / ".page.py"
    script.write_text(f"BLOCKS = {rows!r}\n{_RUNNER}", encoding="utf-8")
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    paths = [str(Path(path).resolve()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    commands = [str(Path(sys.executable).parent), sysconfig.get_path("scripts"), os.environ["PATH"]]
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=folder,
        env={**kept, "PATH": os.pathsep.join(commands), "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, f"{page.relative_to(ROOT)}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
