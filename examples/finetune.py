"""`hmba finetune` as a script, such as for `accelerate launch`; `--help` shows its options."""

from hmba_hf.commands.finetune import main

if __name__ == "__main__":
    main()
