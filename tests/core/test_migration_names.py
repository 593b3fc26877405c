"""The calls of the library that people come from exist here, with their arguments."""
