"""Explaining an answer by the tokens that were kept for it, as a page to explore or a picture to print."""
