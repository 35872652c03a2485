"""Audio-visual LLMs behind one protocol."""
