"""Measures the bundled model and writes docs/results.md."""
