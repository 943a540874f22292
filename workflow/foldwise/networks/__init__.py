"""Networks by name from an allow-list, and those that no library has."""
