"""From a token stream to text."""
