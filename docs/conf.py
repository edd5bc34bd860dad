"""Settings of Sphinx. `python docs/build.py` builds the site."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from assistly.storage import errors

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "Assistly"
author = _PROJECT["authors"][0]["name"]
copyright = author
version = release = _PROJECT["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_heading_anchors = 4

default_role = "code"  # docstrings are plain text with names between backquotes
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
add_module_names = False

nitpicky = True
nitpick_ignore_regex = [
    # Other people's names. Their inventories would have to be downloaded, and the build needs no network.
    (r"py:.*", r"(abc|asyncio|collections|concurrent|contextlib|datetime|enum|os|typing)\..*"),
    (r"py:.*", r"(aiogram|fastapi|opentelemetry|pytest|starlette|telegram)\..*"),
    (r"py:.*", r"datetime|timedelta|Starlette"),
    # The name that stores give to the built-in, since they have a method `list`.
    (r"py:class", r"builtins\.list"),
    # Aliases of types for JSON: `Json` goes in, and `Any` comes out.
    (r"py:class", r"(assistly\.storage\.records\.)?(JsonValue|JsonResult)"),
    # Type variables.
    (r"py:.*", r"(.*\.)?[A-Z]"),
    # The keywords of `open_storage`: docs/reference/settings.md lists them.
    (r"py:class", r"(.*\.)?SettingsKeywords"),
    # What `bind` takes: its docstring lists the classes.
    (r"py:class", r"assistly\.storage\.bindable\..*"),
    # What a method returns, and is used at once in a `with`, `async with` or `await`.
    (r"py:class", r".*\.(AsyncOpening|AsyncTransaction|Transaction|KeyValueTransaction)"),
    # Of use to the package alone: parameters with a default that a program leaves out, and bases.
    (r"py:class", r"(.*\.)?(Access|Address|Authorize|Column|Monitor|Runtime|_EngineName)"),
    (r"py:class", r"assistly\.storage\.engine\.keyvalue\..*"),
    # A NewType, which Sphinx describes as data.
    (r"py:class", r"assistly\.storage\.validation\.JsonText"),
    # Callables that an alias of a type spells out.
    (r"py:class", r"assistly\.integrations\.fastapi\._\w+"),
    (r"py:class", r"assistly\.worker\.publisher\.Publishes\w+"),
    (r"py:class", r"tuple\[~typing\.Any|collections\.abc\.Mapping\[str|Callable\[\[\]"),
]

html_theme = "furo"
html_title = f"Assistly {version}"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True


def _without_constructor(
    _app: Sphinx, kind: str, name: str, _object: object, _options: object, *_signature: str | None
) -> tuple[str | None, ...] | None:
    """Leave out the arguments of classes that a storage makes, and those that pydantic makes."""
    ours = re.match(r"assistly\.storage\.(stores|aio\.(queue|stores)|StorageSettings$)\b", name)
    return ("", None) if kind == "class" and ours else None


def _link_errors(
    _app: Sphinx, _kind: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Link the names of errors, which docstrings write without quotes."""
    names = "|".join(name for name in vars(errors) if name[0].isupper())
    lines[:] = [
        re.sub(rf"(?<![`\w.])({names})(?![`\w])", r":exc:`~assistly.storage.errors.\1`", line)
        for line in lines
    ]


def _show_files_beside_docs(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put CONTRIBUTING.md and CHANGELOG.md in the place of the pages of that name, and link to these."""
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        if name == f"{page.upper()}.md":
            source[0] = (_ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    up = "../" * page.count("/")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        source[0] = re.sub(rf"\]\(({up}\.\./)?{name}", f"]({up}{name.lower()}", source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_lexer("mermaid", TextLexer)  # a forge draws it
    app.connect("autodoc-process-signature", _without_constructor)
    app.connect("autodoc-process-docstring", _link_errors)
    app.connect("source-read", _show_files_beside_docs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
