"""Ways to choose which audio and video tokens are kept."""
