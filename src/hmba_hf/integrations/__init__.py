"""H-MBA in other people's programs."""
