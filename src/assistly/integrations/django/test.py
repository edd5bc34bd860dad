"""The test runner of a Django project with a storage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from django.test.runner import DiscoverRunner

from assistly.integrations.django import close_storages, database


class StorageTestRunner(DiscoverRunner):  # type: ignore[misc]
    """Django's test runner, which closes the storage before Django deletes the test database.

    With `--parallel` on SQLite, it copies the test database for each process, because Django copies the file
    without the write-ahead log beside it.
    """

    def setup_databases(self, **options: Any) -> Any:
        """Called by Django before the tests."""
        databases = super().setup_databases(**options)
        for connection, copy in self._copies(databases):
            connection.close()  # the last connection to the file: SQLite empties the log into it
            _delete_log(copy)
            shutil.copy(connection.settings_dict["NAME"], copy)
        return databases

    def teardown_databases(self, old_config: Any, **options: Any) -> None:
        """Called by Django after the tests."""
        close_storages()
        copies = self._copies(old_config)
        super().teardown_databases(old_config, **options)
        for _, copy in copies:
            _delete_log(copy)

    def _copies(self, databases: Any) -> list[tuple[Any, str]]:
        """The connection to a test database on SQLite, with each file that Django has copied from it."""
        numbers = range(1, self.parallel + 1) if self.parallel > 1 else ()
        return [
            (connection, str(connection.creation.get_test_db_clone_settings(str(number))["NAME"]))
            for connection, _, is_test in databases
            if is_test and connection.alias == database() and connection.vendor == "sqlite"
            for number in numbers
        ]


def _delete_log(path: str) -> None:
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
