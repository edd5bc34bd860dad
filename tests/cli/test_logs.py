"""What commands log: each line of JSON parses, and text controls no terminal."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from assistly.cli.logs import log_as_json, log_as_text


@contextmanager
def standard_error() -> Iterator[io.StringIO]:
    """What is logged to standard error, without the handlers of pytest; then all is as before."""
    root, stream = logging.getLogger(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(root, "handlers", [])
        patch.setattr(root, "level", root.level)
        yield stream


class Broken:
    def __str__(self) -> str:
        raise ZeroDivisionError("no text")

    __repr__ = __str__


def circular() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("message", "args", "extra", "wrong"),
    [
        ("%d jobs", ("many",), {}, "TypeError"),
        ("%s and %s", ("one",), {}, "TypeError"),
        ("no place", ("one",), {}, "TypeError"),
        ("%s", (Broken(),), {}, "ZeroDivisionError: no text"),
        (Broken(), (), {}, "ZeroDivisionError: no text"),
        ("fine", (), {"user": Broken()}, "ZeroDivisionError: no text"),
        ("fine", (), {"user": circular()}, "ValueError: Circular reference"),
        ("fine", (), {"user": {(1, 2): 3}}, "TypeError"),
        ("fine", (), {"user": float("nan")}, "ValueError"),
    ],
)
def test_a_record_that_is_wrong_is_still_json(
    message: Any, args: tuple[Any, ...], extra: dict[str, Any], wrong: str
) -> None:
    with standard_error() as written:
        log_as_json(owns_process=False)
        try:
            1 / 0  # noqa: B018 - it fails
        except ZeroDivisionError:
            logging.getLogger("mine").error(message, *args, extra=extra | {"job_id": 7}, exc_info=True)
    (line,) = written.getvalue().splitlines()
    found = json.loads(line, parse_constant=pytest.fail)
    assert [*found][:5] == ["timestamp", "level", "logger", "event", "message"]
    assert (found["level"], found["logger"], found["job_id"]) == ("error", "mine", 7)
    assert wrong in found["log_error"]
    assert found["exception"].endswith("ZeroDivisionError: division by zero")
    if isinstance(message, str) and not args:
        assert found["message"] == message


_UNCAUGHT = """
import logging, sys, threading, warnings
from assistly.cli.logs import log_as_json

class Falling:
    def __del__(self):
        raise ValueError("in del")

def fail():
    raise ValueError("in a\\nthread")

def end():
    raise SystemExit(1)

log_as_json(owns_process=True)
warnings.warn("be\\ncareful")
for target in (fail, end):
    thread = threading.Thread(target=target, name="mine")
    thread.start()
    thread.join()
Falling()
raise ValueError("at the\\nend")
"""


def test_warnings_and_uncaught_exceptions_are_json() -> None:
    process = subprocess.run([sys.executable, "-c", _UNCAUGHT], capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in process.stderr.splitlines()]
    assert [(line["logger"], line["level"]) for line in found] == [
        ("py.warnings", "warning"),
        ("assistly.cli", "error"),
        ("assistly.cli", "error"),
        ("assistly.cli", "critical"),
    ]
    assert "be\ncareful" in found[0]["message"]
    assert found[1]["message"] == "thread mine failed"
    assert found[1]["exception"].endswith("ValueError: in a\nthread")
    assert "__del__" in found[2]["message"]
    assert found[3]["exception"].endswith("ValueError: at the\nend")
    assert process.returncode == 1


def test_hooks_stay_in_a_process_of_somebody_else() -> None:
    before = sys.excepthook
    with standard_error():
        log_as_json(owns_process=False)
    assert sys.excepthook is before


def test_text_controls_no_terminal() -> None:
    with standard_error() as written:
        log_as_text()
        try:
            raise ValueError("\x1b[2Jgone")
        except ValueError:
            logging.getLogger("mine").exception(
                "job 1 on %s is posted", "x\x1b]0;title\x07\u202e\r\n2026-11-30 12:00:00,000 INFO forged"
            )
    text = written.getvalue()
    assert not [character for character in text if not character.isprintable() and character != "\n"]
    assert [line for line in text.splitlines() if "forged" in line] == [
        "    2026-11-30 12:00:00,000 INFO forged is posted"
    ]
    assert text.endswith("ValueError: \ufffd[2Jgone\n")
