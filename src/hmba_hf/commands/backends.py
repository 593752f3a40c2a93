"""Show which implementation of scan, convolution and linear layers runs where, and why not another.

    hmba backends

The variables `HMBA_SCAN_BACKEND` and `HMBA_LINEAR_BACKEND` force one.
"""

import argparse
from collections.abc import Sequence

from hmba_hf.messages import HelpFormatter, run_command
from hmba_hf.models.ops_backends import show_backends


def main(words: Sequence[str] | None = None) -> None:
    """Print it."""
    argparse.ArgumentParser(prog="hmba backends", description=__doc__, formatter_class=HelpFormatter).parse_args(words)
    show_backends()


if __name__ == "__main__":
    run_command(main)
