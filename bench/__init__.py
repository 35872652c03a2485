"""Measurements of the whole path and its parts, one file for each question: `python -m bench.NAME --help`."""
