"""`assistly demo`: a content calendar run through the storage, under a simulated clock."""
