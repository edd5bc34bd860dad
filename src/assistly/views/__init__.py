"""What people are shown about a storage, as typed values: the command line prints them."""
