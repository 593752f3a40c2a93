"""Annotated clips: samples, dataset rows, the micro-world and batches."""
