"""Accuracy on questions with known answers."""
