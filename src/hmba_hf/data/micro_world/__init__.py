"""The micro-world: a drawn road on which only motion tells the risk."""
