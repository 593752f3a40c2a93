"""`python -m hmba_hf VERB`: the program `hmba`, where its folder is on no path."""

from .cli import main

main()
