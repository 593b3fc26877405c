"""Random trees of operations and random causes, against a small model."""
