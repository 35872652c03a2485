"""A clip and a question as model inputs: patches, log-mel, prompt, positions, and the token stream."""
