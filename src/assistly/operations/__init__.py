"""Changes that people make in a storage: each in a transaction, with an event that says who made it."""
