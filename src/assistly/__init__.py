"""Assistly: storage for bots and webhook workers."""
