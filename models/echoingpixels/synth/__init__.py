"""SyncClips: synthetic audio-visual clips whose questions have answers known by construction."""
