"""Let a fine-tuned H-MBA answer about held-out clips and score what it says.

    python examples/evaluate.py --model hmba-drama --dataset_name org/drama --split test --output_dir hmba-drama/test
    python examples/evaluate.py --predictions hmba-drama/test/predictions.jsonl --output_dir hmba-drama/test

The answers are those of `predict.py`, with its options; or `--predictions` names a file of them. Prints a table and
writes `metrics.json`: mIoU, Acc@0.5, the share of answers without a readable box, and for the micro-world that of
clips in which the right road user is picked; BLEU-1 to 4, ROUGE-L, CIDEr, and with Java METEOR and SPICE, of BDD-X's
action and justification apart; all with bootstrap intervals, and again for each split and tag. `per_sample.jsonl` has
the scores of every clip, `eval_results.json` the results for the model's card, where `recipe.json` beside the answers
tells what they are of. The published caption metrics need
Java: without it words are split by another rule, and the results say so. The micro-world's numbers say nothing about
real roads.
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
from hmba_hf.files import explained_write_errors, read_json_object, write_json, written_whole
from hmba_hf.messages import show_messages
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.metrics.caption_tokens import TOKENIZERS, MetricUnavailable, require_java
from hmba_hf.prediction import PredictionArguments, predict
from hmba_hf.scoring import ScoredRecords, card_results, format_table, read_records, run_metrics, to_model_index

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
        parser.error(f"--predictions are scored as they are, without {', '.join(others)}")
    try:  # before the work, not after it
        bootstrap = Bootstrap(args.confidence, args.draws, args.seed)
        if args.tokenizer == "ptb":
            require_java("the PTB tokenizer")
    except (ValueError, MetricUnavailable) as error:
        parser.error(str(error))
    predictions = Path(args.predictions or predict(args))
    if not PartialState().is_main_process:
        return
    scored = ScoredRecords(read_records(predictions), args.tokenizer, bootstrap)
    file = predictions.parent / "recipe.json"  # left by predict, if the answers are its own
    recipe = read_json_object(file, model=str) if file.exists() else {}
    used = asdict(args) if args.predictions is None else {name: getattr(args, name) for name in SCORING}
    command = shlex.join(["python", "examples/evaluate.py", *sys.argv[1:]])
    metrics = run_metrics(scored, {**used, **recipe}, command)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with explained_write_errors(folder, "The answers are safe: make room and start the same command again."):
        write(folder, metrics, scored, recipe)
    if not recipe:
        print(f"No {CARD_RESULTS} for a card: nothing beside {predictions} tells which model and data they are of.")
    if metrics["scores"]:
        print(format_table(metrics))
    else:
        print(f"There is nothing to score: no answer of {predictions} has a true box or a reference with a word.")
        for reason in metrics["absent"].values():
            print(reason)


def options_of_answering(args: EvaluationArguments) -> list[str]:
    """Name the options that were given and concern answers that are yet to be generated."""
    default, names = EvaluationArguments(), (option.name for option in fields(args) if option.name not in SCORING)
    return [f"--{name}" for name in names if getattr(args, name) != getattr(default, name)]


def write(folder: Path, metrics: dict[str, Any], scored: ScoredRecords, recipe: dict[str, Any]) -> None:
    """Write all files, each as a whole, the metrics last: where they are, the others are."""
    for stale in ("metrics.json", CARD_RESULTS):
        (folder / stale).unlink(missing_ok=True)
    with written_whole(folder / "per_sample.jsonl") as unfinished:
        unfinished.write_text("".join(json.dumps(one) + "\n" for one in scored.each()))
    if recipe:
        write_json(folder / CARD_RESULTS, to_model_index(Path(recipe["model"]).name, card_results(metrics)))
    write_json(folder / "metrics.json", metrics)


if __name__ == "__main__":
    main()
