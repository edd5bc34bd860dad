"""What people see of a storage, as typed values: the command line and the page show them."""
