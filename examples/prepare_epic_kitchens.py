"""`hmba prepare epic-kitchens` as a script, such as for `accelerate launch`; `--help` shows its options."""

from hmba_hf.commands.prepare_epic_kitchens import main

if __name__ == "__main__":
    main()
