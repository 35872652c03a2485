"""Speed, memory and agreement of reducers, measured beside the run with all tokens."""
