"""Let H-MBA answer about every clip of a split, in any number of processes, and never lose an answer.

    accelerate launch examples/predict.py --model hmba-drama --dataset_name org/drama --split test \\
        --output_dir hmba-drama/test

It writes `predictions.jsonl`, which `evaluate.py --predictions` scores. Stopped or killed, the same command resumes
with any number of processes and ends with the same answers. All processes must see one output_dir. A clip that cannot
be read stops the run; with `--on_error skip` its line in the file has the reason instead of an answer.
"""

import argparse
import sys

from accelerate import PartialState
from transformers import HfArgumentParser

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.messages import show_messages
from hmba_hf.tasks.answering.prediction import PredictionArguments, predict


def main() -> None:
    """Generate missing answers, merge them, print their path."""
    show_messages()
    parser = HfArgumentParser(
        PredictionArguments, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    (args,) = parser.parse_args_into_dataclasses()
    if args.model is None:
        parser.error("the following arguments are required: --model")
    try:
        predictions = predict(args)
    except KeyboardInterrupt:
        sys.exit(f"stopped; the same command resumes from {args.output_dir}")
    if PartialState().is_main_process:
        print(f"predictions: {predictions}")


if __name__ == "__main__":
    main()
