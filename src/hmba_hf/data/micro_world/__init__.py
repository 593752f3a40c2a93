"""The micro-world: a drawn road on which only motion shows the risk."""
