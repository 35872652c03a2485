"""The commands of `ep`, one a file: each parses its options, calls the library, and prints the result."""
