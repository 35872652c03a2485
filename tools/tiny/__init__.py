"""The bundled tiny model: how it is built, and how its encoders and decoder learn from SyncClips made on the fly."""
