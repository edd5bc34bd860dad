"""Moves a whole storage: to a file and back (`export_rows`, `import_rows`), or to another storage (`copy`).

docs/moving.md describes the file format, and what a copy guarantees.
"""
