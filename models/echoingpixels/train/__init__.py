"""Training the bundled tiny model, and CS2: towers, then answers from all tokens, then answers through the sieve."""
