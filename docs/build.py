"""Builds the documentation: `python docs/build.py [FOLDER]` (default: build/docs).

Each warning is an error, and so is a link that leads nowhere. Beside the pages the build writes `llms.txt`,
a list of them, and `llms-full.txt`, their text in one file, with the reference that Sphinx makes from the
code.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import toctree
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

DOCS = Path(__file__).resolve().parent
LEFT_OUT = ("decisions/0", "changelog", "contributing", "mutants", "release", "simulation")
"""How the names of pages begin that the files for language models leave out: they are for contributors."""


def build(target: Path) -> int:
    shutil.rmtree(target, ignore_errors=True)
    site = _run("html", target)
    if site.statuscode == 0:
        parts = [*_parts(site)]
        pages = ["index", *(page for _, names in parts for page in names)]
        text = _run("text", target / ".text", pages)
        (target / "llms.txt").write_text(_index(site, parts), encoding="utf-8")
        (target / "llms-full.txt").write_text(_full(text, pages), encoding="utf-8")
        shutil.rmtree(target / ".text")
        if text.statuscode:
            return text.statuscode
    return site.statuscode


def _run(builder: str, target: Path, pages: Sequence[str] = ()) -> Sphinx:
    doctrees = DOCS.parent / "build" / "doctrees"
    with patch_docutils(), docutils_namespace():
        app = Sphinx(
            DOCS,
            DOCS,
            target,
            doctrees,
            builder,
            status=None,
            warning=sys.stderr,
            warningiserror=True,
            parallel=os.cpu_count() or 1,
        )
        app.build(filenames=[str(app.env.doc2path(page)) for page in pages])
    return app


def _parts(app: Sphinx) -> Iterator[tuple[str, list[str]]]:
    """The caption of each part, and its pages with those below them."""
    for tree in app.env.get_doctree("index").findall(toctree):
        pages = [page for _, name in tree["entries"] for page in _with_children(app, name)]
        yield tree["caption"], [page for page in pages if not page.startswith(LEFT_OUT)]


def _with_children(app: Sphinx, page: str) -> Iterator[str]:
    yield page
    for child in app.env.toctree_includes.get(page, []):
        yield from _with_children(app, child)


def _index(app: Sphinx, parts: list[tuple[str, list[str]]]) -> str:
    lines = [f"# {app.config.project}", "", f"> {_summary(app, 'index')}", ""]
    for caption, pages in parts:
        lines += [f"## {caption}", ""]
        for page in pages:
            title = app.env.titles[page].astext()
            lines.append(f"- [{title}]({app.builder.get_target_uri(page)}): {_summary(app, page)}")
        lines.append("")
    return "\n".join(lines)


def _summary(app: Sphinx, page: str) -> str:
    """The first paragraph of a page."""
    for paragraph in app.env.get_doctree(page).findall(nodes.paragraph):
        return " ".join(paragraph.astext().split())
    return ""


def _full(app: Sphinx, pages: Sequence[str]) -> str:
    """The text of all pages, with tables that are not padded: they would be half of it."""
    text = "\n\n".join((app.outdir / f"{page}.txt").read_text(encoding="utf-8") for page in pages)
    text = re.sub(r"^ *\+[-=+]+\+\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^ *\|.*\|$", lambda row: re.sub(" +", " ", row[0]), text, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else DOCS.parent / "build" / "docs").resolve()))
