"""Checks of a storage and of what it runs on: the command line prints what they find."""
