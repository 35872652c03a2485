"""A clip and a question as the model reads them: patches, log-mel, prompt, positions, and the token stream."""
