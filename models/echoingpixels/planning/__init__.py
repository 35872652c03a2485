"""Cost before running: memory plans, advice, known models, downloads, and the check of the installation."""
