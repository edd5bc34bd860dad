"""Runs the command in processes of their own, on pipes or in a terminal.

Each process is forked from one that has imported the command already: a test of it takes milliseconds.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from fcntl import ioctl
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

COLUMNS = 80
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3|4|9|10)[0-9]\b")
_SETTING = re.compile("STORAGE_|RETENTION_|SCHEDULE_|SQLITE_|DATABASE_URL|PG|WEBHOOK_|COLUMNS|LINES|NO_COLOR")


@dataclass(frozen=True)
class Ended:
    """How a process ended. In a terminal, `out` has what it printed on stderr as well."""

    code: int
    out: str
    err: str

    @property
    def is_coloured(self) -> bool:
        return bool(_COLOUR.search(self.out))

    @property
    def lines(self) -> list[str]:
        return re.split("[\r\n]+", _CONTROL.sub("", self.out))


class CommandProcesses:
    """Runs commands in `folder`, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(other_end.fileno())], pass_fds=[other_end.fileno()]
        )
        other_end.close()

    def piped(self, arguments: list[str], settings: Mapping[str, str]) -> Ended:
        """Run one without a terminal: its output goes to files."""
        with TemporaryFile() as out, TemporaryFile() as err, Path(os.devnull).open("rb") as nothing:
            self._start(arguments, settings, [nothing.fileno(), out.fileno(), err.fileno()])
            code = self._answer()
            out.seek(0)
            err.seek(0)
            return Ended(code, out.read().decode(), err.read().decode())

    def in_terminal(
        self, arguments: list[str], settings: Mapping[str, str], *, interrupt_after: str | None = None
    ) -> Ended:
        """Run one in a terminal of 80 columns. SIGINT is sent once it has printed `interrupt_after`."""
        terminal, other_end = pty.openpty()
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        pid = self._start(arguments, settings, [other_end] * 3)
        os.close(other_end)
        printed = b""
        while part := _read(terminal):
            printed += part
            if interrupt_after is not None and interrupt_after.encode() in printed:
                os.kill(pid, signal.SIGINT)
                interrupt_after = None
        os.close(terminal)
        return Ended(self._answer(), printed.decode(), "")

    def close(self) -> None:
        """End the process that the others are forked from."""
        self._socket.close()
        self._server.wait(60)

    def _start(self, arguments: list[str], settings: Mapping[str, str], files: list[int]) -> int:
        kept = {name: value for name, value in os.environ.items() if not _SETTING.match(name)}
        request = {
            "arguments": arguments,
            "environment": {**kept, "TERM": "xterm-256color", "USER": "tester", **settings},
            "folder": str(self._folder),
        }
        socket.send_fds(self._socket, [json.dumps(request).encode()], files)
        return self._answer()

    def _answer(self) -> int:
        return int(self._socket.recv(100))


def _read(terminal: int) -> bytes:
    """What was printed; empty once every process has closed the terminal."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for each request, and answer with the id of the process and then its exit code.

    In the forked process it returns the request.
    """
    while True:
        text, files, _, _ = socket.recv_fds(connection, 1 << 18, 3)
        if not text:
            sys.exit(0)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for number, file in enumerate(files):
                os.dup2(file, number)
            return dict(json.loads(text))
        for file in files:
            os.close(file)
        connection.send(str(pid).encode())
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _run(request: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    # Those of the process before it remember what kind of files they were for.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["assistly", *request["arguments"]]
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - as the interpreter ends with it
        traceback.print_exc()
        code = 1
    else:
        code = 0
    # What the interpreter does at its end, but for taking down all modules, which takes longer than the test.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


if __name__ == "__main__":
    import pydantic  # noqa: F401
    import rich.table  # noqa: F401

    from assistly import cli
    from assistly.cli import application  # noqa: F401
    from assistly.cli.commands import COMMANDS
    from assistly.storage import factory, settings  # noqa: F401
    from assistly.storage.engines import postgres, sqlite  # noqa: F401

    for entry in COMMANDS.values():
        import_module(f"assistly.cli.{entry.module}")

    gc.freeze()
    _run(_serve(socket.socket(fileno=int(sys.argv[1]))))
