"""Ablations and other comparisons on the micro-world: their runs, their measurements, their tables and pictures."""
