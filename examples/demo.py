"""`hmba demo` as a script, such as for `accelerate launch`; `--help` shows its options."""

from hmba_hf.commands.demo import main
from hmba_hf.messages import run_command

if __name__ == "__main__":
    run_command(main)
