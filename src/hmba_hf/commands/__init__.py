"""What `hmba VERB` runs: one module for each command, which `python -m` runs, too."""

from ..messages import show_escapes

show_escapes()  # here, so that every command does it, however it is started
