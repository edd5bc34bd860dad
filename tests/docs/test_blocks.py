"""The code on each page of the documentation runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.blocks import PAGES, ROOT, blocks, run

RUN = [page for page in PAGES if any(True for _ in blocks(page))]
TWICE = ["README.md", "docs/how-to/transactions.md"]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", RUN, ids=_name)
def test_the_blocks_run_in_order(page: Path, tmp_path: Path) -> None:
    run(page, tmp_path)


@pytest.mark.parametrize("name", TWICE)
def test_they_run_again_in_the_same_folder(name: str, tmp_path: Path) -> None:
    for _ in range(2):
        run(ROOT / name, tmp_path)


def test_there_are_blocks_to_run() -> None:
    assert {*TWICE, "docs/tutorial.md", "docs/how-to/stores.md", "docs/testing.md"} <= {
        _name(page) for page in RUN
    }


@pytest.mark.parametrize(
    ("comment", "kinds"),
    [
        ("", ["python"]),
        ("<!-- file: bot.py -->\n", ["file"]),
        ("<!-- not run: it needs a server of somebody else -->\n", []),
        ("<!-- not run: no -->\n", ["python"]),  # that is no reason
        ("<!-- some remark -->\n", ["python"]),
    ],
)
def test_comments_decide(comment: str, kinds: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"# Page\n\n{comment}```python\nassert False\n```\n\n```sh\nfalse\n```\n", encoding="utf-8"
    )
    assert [block.kind for block in blocks(page)] == kinds


def test_a_block_that_fails_is_found_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\nx = 1\n```\n\n<!-- run -->\n```sh\ntest -e .page.py\n```\n\n"
        "```python\nassert x == 2\n```\n",
        encoding="utf-8",
    )
    monkeypatch.setattr("docs.blocks.ROOT", tmp_path)
    with pytest.raises(AssertionError, match=re.escape('page.md", line 13')):
        run(page, tmp_path)


def test_a_shell_block_that_fails_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- run -->\n```sh\nfalse\ntrue\n```\n", encoding="utf-8")
    monkeypatch.setattr("docs.blocks.ROOT", tmp_path)
    with pytest.raises(AssertionError, match="CalledProcessError"):
        run(page, tmp_path)


@pytest.mark.parametrize(
    ("line", "is_right"), [("job … is posted", True), ("job 8 is posted", False), ("7", False)]
)
def test_output_is_compared(
    line: str, is_right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"# Page\n\n<!-- run -->\n```sh\necho first\necho job 7 is posted\n```\n\n"
        f"<!-- output -->\n```text\n{line}\n```\n",
        encoding="utf-8",
    )
    monkeypatch.setattr("docs.blocks.ROOT", tmp_path)
    if is_right:
        run(page, tmp_path)
    else:
        with pytest.raises(AssertionError, match=line):
            run(page, tmp_path)
