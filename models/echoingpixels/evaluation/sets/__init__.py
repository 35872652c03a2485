"""Question files of published audio-visual sets, and of ms-swift, as this project's rows."""
