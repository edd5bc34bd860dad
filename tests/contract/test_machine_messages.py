"""What a machine prints when an engine fails in an unexpected way."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from assistly.storage import MemoryBackend, StorageUnavailable
from assistly.storage.testing.machines import Engine, LockstepMachine


def _fails_on_the_engine(_: Any, side: Any) -> int:
    if side.name == "model":
        return 1
    try:
        raise OSError("no space left")
    except OSError as error:
        raise StorageUnavailable("the file cannot be written") from error


def test_an_unexpected_error_is_shown_with_its_cause() -> None:
    with closing(MemoryBackend()) as backend:
        machine = LockstepMachine(Engine("memory", backend))
        with pytest.raises(AssertionError) as caught:
            machine.ask(_fails_on_the_engine)
    message = str(caught.value)
    assert message.startswith("memory says\n")
    assert "it raised StorageUnavailable: the file cannot be written" in message
    assert "from OSError: no space left" in message
    assert isinstance(caught.value.__cause__, StorageUnavailable)
