"""Many questions about many clips, each answered once whatever happens."""
