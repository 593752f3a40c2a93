"""Scores as pure functions: numbers and strings in, numbers out."""
