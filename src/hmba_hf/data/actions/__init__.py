"""Videos of actions, each with the class that it shows."""
