"""Measurements of the whole path and its parts, one file a question: `python -m bench.NAME --help`."""
