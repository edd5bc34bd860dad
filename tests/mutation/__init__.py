"""Mutation testing: small faults are put into the code one by one, and each should make a test fail.

`python -m tests.mutation --help` says how to run it, docs/mutants.md what it found.
"""
