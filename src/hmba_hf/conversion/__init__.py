"""Checkpoints of other codes to this package and back: rules, a table of names for each family, readers, writers."""
