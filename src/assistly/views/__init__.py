"""What commands and pages show of a storage, as values. Nothing here prints."""
