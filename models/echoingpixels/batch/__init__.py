"""Many questions about many clips, each answered once, also after an interruption."""
