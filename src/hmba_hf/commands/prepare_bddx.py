"""Make a dataset of BDD-X: one clip for each segment of a drive, the ego car's action, and its justification.

    hmba prepare bddx --annotations BDD-X-Annotations_v1.csv --videos bdd100k/videos --output_dir bddx

`load_dataset("bddx")` and `hmba finetune --dataset_name bddx` read the result. The lists of the splits, train.txt,
val.txt and test.txt, lie beside the annotations; `--split_rule ranges` splits as ADAPT does. `report.json` names each
record left out, with the reason. The same command resumes a stopped run.

`--annotations_only` writes text alone and needs no video. `--push_to_hub name/bddx` uploads the result to a private
repository. The files of the released H-MBA code are accepted, too, actions before justifications:

    hmba prepare bddx --train_files action.jsonl justification.jsonl --images pictures --output_dir bddx
"""

from collections.abc import Sequence

from hmba_hf.commands.preparing import prepare
from hmba_hf.data.driving.bddx import BDDXOptions, prepare_bddx
from hmba_hf.messages import run_command


def main(words: Sequence[str] | None = None) -> None:
    """Convert, report, push."""
    prepare(BDDXOptions, prepare_bddx, __doc__, program="hmba prepare bddx", words=words)


if __name__ == "__main__":
    run_command(main)
