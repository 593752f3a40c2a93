"""Let a fine-tuned model predict for held-out clips, and score the predictions.

    hmba evaluate --model hmba-drama --dataset_name org/drama --split test --output_dir hmba-drama/test
    hmba evaluate --predictions hmba-drama/test/predictions.jsonl --output_dir hmba-drama/test

With `--model` it makes the predictions itself before scoring, with the options of `hmba predict`; `--model M --help`
shows those of its task, and `--accelerate_config ddp`, `--num_processes 2` and others are options of Accelerate's
launcher. `--predictions` names a file of them instead. It prints a table and writes three files:

- `metrics.json`: the scores with bootstrap intervals, for the whole set, by split and by tag;
- `per_sample.jsonl`: the scores of every clip;
- `eval_results.json`: the results for the model's card, if `recipe.json` lies beside the predictions.

The scores of classes are top-1, top-5 and mean class accuracy, and `metrics.json` holds their table of confusions. A
model that is asked questions has them for each head, with class-mean top-5 recall, and for all heads together. Its
results name the source of the questions, which are generic unless `--questions` says otherwise.

The scores of answers are mIoU, Acc@0.5 and the share of answers without a readable box. The micro-world adds the share
of clips with the right road user picked. Captions get BLEU-1 to 4, ROUGE-L and CIDEr, and with Java METEOR and SPICE.
BDD-X's action and justification are scored apart. Published caption metrics need Java; without it another rule splits
words, and the results record this. The micro-world's numbers do not transfer to real roads.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from accelerate import PartialState

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.commands.parsing import command_parser
from hmba_hf.evaluation.predicting import SplitArguments, find_task_of_words, predict_splits
from hmba_hf.evaluation.records import read_records
from hmba_hf.evaluation.results import card_results, format_table, run_metrics, to_model_index
from hmba_hf.evaluation.scoring import ScoredRecords, only_task
from hmba_hf.files import explained_write_errors, read_json_object, remove_unfinished, write_json, written_whole
from hmba_hf.messages import run_command, show_messages
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.metrics.caption_tokens import TOKENIZERS, MetricUnavailable, require_java

CARD_RESULTS = "eval_results.json"


@dataclass
class ScoringArguments:
    """Which predictions to score, and how."""

    predictions: str | None = field(default=None, metadata={"help": "score the predictions of this file"})
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "of captions, for answers; ptb where Java runs when absent", "choices": TOKENIZERS},
    )
    confidence: float = field(default=0.95, metadata={"help": "of the intervals"})
    draws: int = field(default=1000, metadata={"help": "resampled corpora for the intervals"})
    seed: int = field(default=0, metadata={"help": "of the resampling"})


def main(words: Sequence[str] | None = None) -> None:
    """Predict, score, write, print."""
    show_messages()
    if words is None:
        words = sys.argv[1:]
    scoring, bootstrap = read_scoring(words)
    task = find_task_of_words([] if scoring.predictions else words)
    parser = command_parser(
        task.arguments or SplitArguments, ScoringArguments, program="hmba evaluate", description=__doc__
    )
    parser.set_defaults(output_dir="evaluation")
    args, _ = parser.parse_args_into_dataclasses(words)
    if (args.model is None) == (scoring.predictions is None):
        parser.error("give either --model or --predictions")
    if scoring.predictions is not None and (others := options_of_predicting(args)):
        parser.error(f"--predictions must come without options of predicting, got {', '.join(others)}")
    if scoring.predictions is not None:
        task = only_task(read_records(scoring.predictions))
    settings = {}
    if "tokenizer" in task.settings:
        settings["tokenizer"] = scoring.tokenizer
    elif scoring.tokenizer is not None:
        parser.error(f"--tokenizer must be absent where no caption is scored, got {scoring.tokenizer!r}")
    predictions = Path(scoring.predictions or predict_splits(args, task))
    if not PartialState().is_main_process:
        return
    scored = ScoredRecords(read_records(predictions), bootstrap, **settings)
    file = predictions.parent / "recipe.json"  # written by predict beside its predictions
    recipe = {}
    if file.exists():
        recipe = read_json_object(file, model=str)
    used = {"output_dir": args.output_dir, **asdict(scoring)}
    if args.model is not None:
        used |= asdict(args)
    command = shlex.join(["hmba", "evaluate", *words])
    metrics = run_metrics(scored, {**used, **recipe}, command)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with explained_write_errors(folder, "The predictions are safe: make room and start the same command again."):
        write(folder, metrics, scored, recipe)
    if not recipe:
        print(f"No {CARD_RESULTS} for a card: {predictions} has no recipe.json beside it with its model and data.")
    if metrics["scores"]:
        print(format_table(metrics))
    else:
        print(f"There is nothing to score: no prediction of {predictions} has anything to compare with.")
        for reason in metrics["absent"].values():
            print(reason)


def read_scoring(words: Sequence[str]) -> tuple[ScoringArguments, Bootstrap]:
    """Read how predictions are scored, before the work and not after it."""
    parser = command_parser(ScoringArguments, program="hmba evaluate", description=None, add_help=False)
    scoring, _ = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    try:
        if scoring.tokenizer == "ptb":
            require_java("the PTB tokenizer")
        return scoring, Bootstrap(scoring.confidence, scoring.draws, scoring.seed)
    except (ValueError, MetricUnavailable) as error:
        parser.error(str(error))


def options_of_predicting(args: Any) -> list[str]:
    """Name the given options that concern the making of predictions."""
    default = type(args)()
    given = []
    for option in fields(args):
        is_default = getattr(args, option.name) == getattr(default, option.name)
        if option.name != "output_dir" and not is_default:
            given.append(f"--{option.name}")
    return given


def write(folder: Path, metrics: dict[str, Any], scored: ScoredRecords, recipe: dict[str, Any]) -> None:
    """Write all files, each as a whole, and the metrics last, so that they imply the others."""
    for stale in ("metrics.json", CARD_RESULTS):
        (folder / stale).unlink(missing_ok=True)
    remove_unfinished(folder, "per_sample.jsonl", CARD_RESULTS, "metrics.json")
    with written_whole(folder / "per_sample.jsonl") as unfinished:
        lines = [json.dumps(one) + "\n" for one in scored.each()]
        unfinished.write_text("".join(lines))
    if recipe:
        write_json(folder / CARD_RESULTS, to_model_index(Path(recipe["model"]).name, card_results(metrics)))
    write_json(folder / "metrics.json", metrics)


if __name__ == "__main__":
    run_command(main)
