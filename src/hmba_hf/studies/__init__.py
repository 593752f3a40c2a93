"""Ablations and other comparisons on the micro-world: what is compared, what is measured, how it is told."""
