"""Assistly in other frameworks. Each module needs the extra of its name, and imports its framework alone."""
