"""SyncClips by a second, independent generator, to test models on other pictures and sounds than they learned from."""
