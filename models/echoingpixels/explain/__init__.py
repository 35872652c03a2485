"""An answer explained by its kept tokens, as an interactive page or a picture."""
