"""Results of the library as terminal tables, labelled lines and JSON."""
