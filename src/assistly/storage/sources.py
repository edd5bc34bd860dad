"""Where settings are set: in the environment, and in `.env`."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ConfigurationError
from .records import record


@record
class EnvFile:
    """The variables of `.env`, and the lines that cannot be read, by number."""

    variables: dict[str, str]
    unreadable: dict[int, str]


def read_env_file() -> EnvFile:
    """Read `.env` in the working directory; it is empty if there is none.

    Raises ConfigurationError if it cannot be read.
    """
    path = Path(".env")
    problem = ""
    try:
        return _read(path) if path.is_file() else EnvFile({}, {})
    except UnicodeError:
        problem = "the file .env is not UTF-8"
    except OSError as error:
        problem = f"the file .env cannot be read: {error.strerror}"
    raise ConfigurationError(problem)


def set_variables(file: EnvFile) -> dict[str, str]:
    """Return the variables that are set. The environment hides the file, also with an empty variable."""
    return {name: text for name, text in (file.variables | dict(os.environ)).items() if text != ""}


def _read(path: Path) -> EnvFile:
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    with path.open(encoding="utf-8") as lines:
        wrong = [binding.original for binding in parse_stream(lines) if binding.error]
    values = dotenv_values(path, encoding="utf-8")
    return EnvFile(
        {name: text for name, text in values.items() if text is not None},
        {original.line: original.string for original in wrong},
    )
