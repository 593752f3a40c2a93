"""What the commands of all converters share: their options, both directions, reports and checks."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hmba_hf.conversion.checkpoint_folders import UNUSED, whole_folder, write_shards
from hmba_hf.conversion.tensor_files import read_json
from hmba_hf.conversion.tensor_sources import Tensors
from hmba_hf.conversion.verification import compare_recorded, compare_tensors
from hmba_hf.messages import HelpFormatter

# Options with a meaning for the way back; `--verify` has one without numbers to compare with.
OF_THE_WAY_BACK = {"checkpoint", "output_dir", "sha256", "max_shard_size", "to_original", "verify"}


def conversion_parser(description: str | None, program: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every converter."""
    parser = argparse.ArgumentParser(prog=program, description=description, formatter_class=HelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder, Hub id or file")
    parser.add_argument("--output_dir", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="default: that of the checkpoint")
    parser.add_argument("--license", help="of the weights, for the card, in the Hub's names, such as llama2")
    parser.add_argument("--sha256", nargs="+", default=[], metavar="NAME=HASH", help="of files of the checkpoint")
    parser.add_argument("--max_shard_size", default="5GB", help="of the files written")
    return parser


def hmba_parser(description: str | None, program: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every converter to H-MBA."""
    parser = conversion_parser(description, program)
    parser.add_argument("--vision", help="the tower of a checkpoint without one; default: the one its config names")
    parser.add_argument("--config", help="folder with config.json and tokenizer of a checkpoint without them")
    parser.add_argument("--num_frames", type=int, help="of a new adapter; default: 5")
    parser.add_argument("--seed", type=int, default=0, help="of new weights")
    return parser


def parse_either_way(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line of a converter that goes both ways; most options have no meaning for the way back."""
    parser.add_argument("--keep_unused", action="store_true", help=f"keep unused tensors in {UNUSED}.safetensors")
    parser.add_argument("--verify", nargs="?", const="", metavar="RECORDED", help="see above")
    parser.add_argument("--to_original", action="store_true", help="write the original's names")
    args = parser.parse_args(words)
    useless = []
    for name, value in vars(args).items():
        if name not in OF_THE_WAY_BACK and value != parser.get_default(name):
            useless.append(f"--{name}")
    if args.verify:
        useless.append("--verify RECORDED")
    if args.to_original and useless:
        parser.error(f"--to_original must be without {', '.join(useless)}")
    return args


def run_conversion(
    args: argparse.Namespace,
    convert: Callable[[argparse.Namespace], None],
    export: Callable[[argparse.Namespace], None] | None = None,
) -> None:
    """Convert, or go back by `export`, and print where the result is."""
    if export is not None and args.to_original:
        export(args)
    else:
        convert(args)
    print(f"checkpoint: {args.output_dir}")


def asked_dtype(args: argparse.Namespace) -> torch.dtype | None:
    """Return the dtype that the command line names."""
    if args.dtype is None:
        return None
    return getattr(torch, args.dtype)


def report_unused(names: Sequence[str], are_kept: bool = False) -> None:
    """Print the tensors that the model does not use."""
    if names:
        fate = "kept" if are_kept else "dropped"
        print(f"not used and {fate}: {len(names)} tensors", *names, sep="\n  ")


def report_recorded(folder: Path, recorded: str, recompute: Callable[..., Any]) -> None:
    """Compare with recorded numbers, if the command line names any, and print the differences.

    Args:
        folder, recompute: as in `compare_recorded`.
        recorded: path of the numbers, or the empty string.
    """
    if recorded:
        for name, error in compare_recorded(folder, Path(recorded), recompute).items():
            print(f"verified: {name} of the original to {error:.1e}")


def read_model_type(path: Path) -> Any:
    """Read the `model_type` of a checkpoint of this package.

    Raises:
        FileNotFoundError: if it has no config.json.
    """
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} must have a config.json, got none")
    return read_json(path / "config.json").get("model_type")


def write_originals(args: argparse.Namespace, originals: Tensors) -> None:
    """Write tensors under the names of the original code, and verify them if the command line asks for it."""
    with whole_folder(args.output_dir) as folder:
        write_shards(folder, originals, args.max_shard_size)
        if args.verify is not None:
            print(f"verified: {compare_tensors(folder, originals)} tensors equal their origins")
