"""The module that sqlite-utils opens files with: pysqlite3 where that is installed."""

from __future__ import annotations

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

__all__ = ["sqlite3"]
