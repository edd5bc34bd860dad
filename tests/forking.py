"""What becomes of a storage in a forked child."""

from __future__ import annotations

import os

import pytest

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"),
    reason="os.fork exists on Unix only: elsewhere no child inherits anything that could go wrong",
)
