"""The cost before a run: memory plans, advice, known models, `auto`, and the check of the installation."""
