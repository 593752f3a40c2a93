"""Push a model to the Hub with its code, its processor and a card with its stored results.

    hmba push --model hmba-drama --repo_id org/hmba-drama --results hmba-drama/test --license apache-2.0

`--results` names folders that `hmba evaluate` has written about this model. The push scores their predictions again
and refuses other numbers. The repository is private, and an existing public one is refused, unless `--public` is
given. The token comes from `hf auth login` or `HF_TOKEN`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoProcessor

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.families import load_model
from hmba_hf.hub import CardDetails, push_checkpoint, recorded_training
from hmba_hf.messages import HelpFormatter, run_command
from hmba_hf.models.decoding_stills import read_picture


def main(words: Sequence[str] | None = None) -> None:
    """Load, compose, push, print the address."""
    parser = argparse.ArgumentParser(prog="hmba push", description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--repo_id", required=True, help="repository, such as name/model")
    parser.add_argument("--results", nargs="*", default=[], help="folders of `hmba evaluate`")
    parser.add_argument("--license", default=None, help="of the weights, such as apache-2.0")
    parser.add_argument("--picture", default=None, help="of a prediction, such as `hmba describe` draws")
    parser.add_argument("--max_shard_size", default="5GB", help="of a file of weights")
    parser.add_argument("--public", action="store_true", help="let everybody see it")
    args = parser.parse_args(words)
    for folder in args.results:
        if not Path(folder).is_dir():
            parser.error(f"--results must name folders that `hmba evaluate` has written, got {folder}")

    picture = None if args.picture is None else read_picture(args.picture)
    model = load_model(args.model, dtype="auto")
    processor = AutoProcessor.from_pretrained(args.model)
    card = CardDetails(license=args.license, training=recorded_training(args.model), picture=picture)
    options = {"private": not args.public, "max_shard_size": args.max_shard_size}
    commit = push_checkpoint(model, processor, args.repo_id, args.results, card, **options)
    print(f"pushed: {commit.commit_url}")


if __name__ == "__main__":
    run_command(main)
