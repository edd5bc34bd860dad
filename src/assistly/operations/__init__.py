"""What people change in a storage: each change in a transaction, with the event that says who made it."""
