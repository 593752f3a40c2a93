"""Make a dataset of BDD-X: one clip for each segment of a drive, the ego car's action, and its justification.

    python examples/prepare_bddx.py --annotations BDD-X-Annotations_v1.csv --videos bdd100k/videos --output_dir bddx

`load_dataset("bddx")` and `finetune.py --dataset_name bddx` read the result. The lists of the splits, train.txt,
val.txt and test.txt, lie beside the annotations; `--split_rule ranges` splits as ADAPT does. `report.json` names each
record left out, with the reason. The same command resumes a stopped run.

`--annotations_only` writes text alone and needs no video. `--push_to_hub name/bddx` uploads the result to a private
repository. The files of the released H-MBA code are accepted, too, actions before justifications:

    python examples/prepare_bddx.py --train_files action.jsonl justification.jsonl --images pictures --output_dir bddx
"""

from argparse import RawDescriptionHelpFormatter

from transformers import HfArgumentParser

from hmba_hf.data.driving.bddx import BDDXOptions, prepare_bddx
from hmba_hf.data.preparing.converting import RunOptions, format_report
from hmba_hf.data.preparing.publishing import PushOptions, push_folder


def main() -> None:
    """Convert, report, push."""
    parser = HfArgumentParser(
        [BDDXOptions, RunOptions, PushOptions], description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    options, run, push = parser.parse_args_into_dataclasses()
    print(format_report(prepare_bddx(options, run)))
    print(f"dataset and report.json: {run.output_dir}")
    if push.push_to_hub is not None:
        print(f"pushed to {push_folder(run.output_dir, push)}")


if __name__ == "__main__":
    main()
