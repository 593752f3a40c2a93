"""Let a fine-tuned H-MBA answer about held-out clips, and score the answers.

    python examples/evaluate.py --model hmba-drama --dataset_name org/drama --split test --output_dir hmba-drama/test
    python examples/evaluate.py --predictions hmba-drama/test/predictions.jsonl --output_dir hmba-drama/test

With `--model` it generates the answers itself before scoring, with the options of `predict.py`. `--predictions` names
a file of answers instead. It prints a table and writes three files:

- `metrics.json`: the scores with bootstrap intervals, for the whole set, by split and by tag;
- `per_sample.jsonl`: the scores of every clip;
- `eval_results.json`: the results for the model's card, if `recipe.json` lies beside the answers.

The scores are mIoU, Acc@0.5 and the share of answers without a readable box. The micro-world adds the share of clips
with the right road user picked. Captions get BLEU-1 to 4, ROUGE-L and CIDEr, and with Java METEOR and SPICE. BDD-X's
action and justification are scored apart. Published caption metrics need Java; without it another rule splits words,
and the results record this. The micro-world's numbers do not transfer to real roads.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import HfArgumentParser

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.evaluation.records import read_records
from hmba_hf.evaluation.results import card_results, format_table, run_metrics, to_model_index
from hmba_hf.evaluation.scoring import ScoredRecords
from hmba_hf.files import explained_write_errors, read_json_object, write_json, written_whole
from hmba_hf.messages import show_messages
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.metrics.caption_tokens import TOKENIZERS, MetricUnavailable, require_java
from hmba_hf.tasks.answering.prediction import PredictionArguments, predict

CARD_RESULTS = "eval_results.json"
SCORING = ("predictions", "output_dir", "tokenizer", "confidence", "draws", "seed")


@dataclass
class EvaluationArguments(PredictionArguments):
    """Which answers to score, and how."""

    output_dir: str = field(default="evaluation", metadata={"help": "folder of answers and scores"})
    predictions: str | None = field(default=None, metadata={"help": "score the answers of this file"})
    tokenizer: str | None = field(
        default=None, metadata={"help": "of captions; ptb where Java runs when absent", "choices": TOKENIZERS}
    )
    confidence: float = field(default=0.95, metadata={"help": "of the intervals"})
    draws: int = field(default=1000, metadata={"help": "resampled corpora for the intervals"})
    seed: int = field(default=0, metadata={"help": "of the resampling"})


def main() -> None:
    """Answer, score, write, print."""
    show_messages()
    parser = HfArgumentParser(
        EvaluationArguments, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    (args,) = parser.parse_args_into_dataclasses()
    if (args.model is None) == (args.predictions is None):
        parser.error("give either --model or --predictions")
    if args.predictions is not None and (others := options_of_answering(args)):
        parser.error(f"--predictions must come without options of generation, got {', '.join(others)}")
    try:  # before the work, not after it
        bootstrap = Bootstrap(args.confidence, args.draws, args.seed)
        if args.tokenizer == "ptb":
            require_java("the PTB tokenizer")
    except (ValueError, MetricUnavailable) as error:
        parser.error(str(error))
    predictions = Path(args.predictions or predict(args))
    if not PartialState().is_main_process:
        return
    scored = ScoredRecords(read_records(predictions), bootstrap, tokenizer=args.tokenizer)
    file = predictions.parent / "recipe.json"  # written by predict beside its answers
    recipe = {}
    if file.exists():
        recipe = read_json_object(file, model=str)
    used = asdict(args)
    if args.predictions is not None:
        used = {name: getattr(args, name) for name in SCORING}
    command = shlex.join(["python", "examples/evaluate.py", *sys.argv[1:]])
    metrics = run_metrics(scored, {**used, **recipe}, command)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with explained_write_errors(folder, "The answers are safe: make room and start the same command again."):
        write(folder, metrics, scored, recipe)
    if not recipe:
        print(f"No {CARD_RESULTS} for a card: {predictions} has no recipe.json beside it with its model and data.")
    if metrics["scores"]:
        print(format_table(metrics))
    else:
        print(f"There is nothing to score: no answer of {predictions} has a true box or a reference with a word.")
        for reason in metrics["absent"].values():
            print(reason)


def options_of_answering(args: EvaluationArguments) -> list[str]:
    """Name the given options that concern the generation of answers."""
    default = EvaluationArguments()
    given = []
    for option in fields(args):
        is_default = getattr(args, option.name) == getattr(default, option.name)
        if option.name not in SCORING and not is_default:
            given.append(f"--{option.name}")
    return given


def write(folder: Path, metrics: dict[str, Any], scored: ScoredRecords, recipe: dict[str, Any]) -> None:
    """Write all files, each as a whole, and the metrics last, so that they imply the others."""
    for stale in ("metrics.json", CARD_RESULTS):
        (folder / stale).unlink(missing_ok=True)
    with written_whole(folder / "per_sample.jsonl") as unfinished:
        lines = [json.dumps(one) + "\n" for one in scored.each()]
        unfinished.write_text("".join(lines))
    if recipe:
        write_json(folder / CARD_RESULTS, to_model_index(Path(recipe["model"]).name, card_results(metrics)))
    write_json(folder / "metrics.json", metrics)


if __name__ == "__main__":
    main()
