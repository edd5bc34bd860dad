"""Integrations with frameworks. Each module needs the extra with its name, and imports only its framework."""
