"""Let a model predict for every clip of a split, in any number of processes, and never lose a prediction.

    hmba predict --model hmba-drama --dataset_name org/drama --split test \\
        --output_dir hmba-drama/test

It writes `predictions.jsonl`, which `hmba evaluate --predictions` scores. Stopped or killed, the same command resumes
with any number of processes and ends with the same predictions. All processes must see one output_dir. A clip that
cannot be read stops the run; with `--on_error skip` its line in the file has the reason instead of a prediction.

The task of the model decides what a prediction is: an answer of H-MBA, the most likely classes of a VideoMamba, or
those of a MambaVL for each question of `--questions`. Classes are those of `--num_temporal_views` x
`--num_spatial_views` views. `--model M --help` shows the options of its task.
`--accelerate_config ddp`, `--num_processes 2` and others are options of Accelerate's launcher.
"""

import sys
from collections.abc import Sequence

from accelerate import PartialState

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.commands.parsing import command_parser
from hmba_hf.evaluation.predicting import SplitArguments, find_task_of_words, predict_splits
from hmba_hf.messages import run_command, show_messages


def main(words: Sequence[str] | None = None) -> None:
    """Make missing predictions, merge them, print their path."""
    show_messages()
    if words is None:
        words = sys.argv[1:]
    task = find_task_of_words(words)
    parser = command_parser(task.arguments or SplitArguments, program="hmba predict", description=__doc__)
    (args,) = parser.parse_args_into_dataclasses(words)
    if args.model is None:
        parser.error("the following arguments are required: --model")
    try:
        predictions = predict_splits(args, task)
    except KeyboardInterrupt:
        sys.exit(f"stopped; the same command resumes from {args.output_dir}")
    if PartialState().is_main_process:
        print(f"predictions: {predictions}")


if __name__ == "__main__":
    run_command(main)
