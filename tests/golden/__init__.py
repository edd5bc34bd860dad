"""Databases as earlier versions left them, one for each level of the migrations, and what they hold.

Whoever adds a migration makes the next one with `python -m tests.golden`; those that exist stay as they are.
Each was written by the version of its time, through the API (`content.fill`), but the first of SQLite and
the first two of Postgres: they hold the rows of the original system in `backends/original_system.py`.
"""
