"""Files that survive interruption: atomic writes, append-only rows, and caches of limited size."""
