"""From a model's name to loaded weights; saving, quantized copies, sieve folders, and marks of weights."""
