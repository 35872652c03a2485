"""From a clip to encoder features, and the cache of features."""
