"""Predictions of any task for whole splits, their files, their scores and their results for a card."""
