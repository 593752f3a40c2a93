"""What `hmba VERB` runs: one module for each command, which `python -m` runs, too."""

import logging

from ..messages import show_escapes

show_escapes()  # here, so that every command does it, however it is started
# On its import it asks for a package that it would download kernels with; peft imports it for every command.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
