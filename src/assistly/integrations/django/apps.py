"""The app, which Django finds here."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate

from assistly.integrations import django


class StorageConfig(AppConfig):  # type: ignore[misc]
    """The app. It has no models: the storage makes its tables itself when `manage.py migrate` runs."""

    name = django.__name__
    label = "assistly"

    def ready(self) -> None:
        """Called by Django when all apps are loaded."""
        post_migrate.connect(_make_tables, sender=self)


def _make_tables(*, using: str, **_: Any) -> None:
    if using == django.database():
        django.make_tables()
