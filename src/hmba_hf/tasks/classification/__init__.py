"""Classification: one of several classes for a clip."""
