"""`hmba demo` as a script, such as for `accelerate launch`; `--help` shows its options."""

from hmba_hf.commands.demo import main

if __name__ == "__main__":
    main()
