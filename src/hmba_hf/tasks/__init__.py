"""What models are for: one room a task."""
