"""The raw driver with ideal SQL, keeping the same facts: what a layer above it can at most reach.

Each module runs alone: `python -m benchmarks.floors.postgres_enqueue`.
"""
