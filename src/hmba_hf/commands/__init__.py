"""What `hmba VERB` runs: one module for each command, which `python -m` runs, too."""
