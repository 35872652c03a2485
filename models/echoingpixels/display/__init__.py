"""A clip for display: its frames, sound and spectrogram, and its kept tokens over time."""
