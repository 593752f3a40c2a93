"""`hmba prepare drama` as a script, such as for `accelerate launch`; `--help` shows its options."""

from hmba_hf.commands.prepare_drama import main

if __name__ == "__main__":
    main()
