"""The command line `ep`: each command parses, calls one library function, and prints."""
