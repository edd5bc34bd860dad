"""The raw driver with the best SQL known, keeping the same facts: what a layer above it can at most reach.

The tables are those of the migrations, with the columns, constraints and indexes that the contract
prescribes. Beside some there is a lean table, with the columns and the one index that the statements of
this benchmark need and nothing else: the difference is what the contract's facts cost.
"""
