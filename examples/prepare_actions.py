"""Make a dataset of actions: one row for each video, with its class.

    python examples/prepare_actions.py --videos k400 --train_files train.csv --test_files val.csv --output_dir K400
    python examples/prepare_actions.py --videos 20bn-something-something-v2 --labels labels.json \
        --train_files train.json --validation_files validation.json --output_dir SSV2
    python examples/prepare_actions.py --videos breakfast --output_dir BREAKFAST

The lists are those of Kinetics, those of Something-Something, or lines of a path and a label. Without lists, videos
lie in folders named by their classes, in folders named by splits if there are several. `finetune_videomamba.py
--dataset_name K400` reads the result.

`report.json` counts and names each video that is missing or broken and each entry of a list that makes no row. The
same command resumes a stopped run. `--by_path` keeps the paths of the videos instead of their bytes. `--push_to_hub
name/actions` uploads the result to a private repository.
"""

from argparse import RawDescriptionHelpFormatter

from transformers import HfArgumentParser

from hmba_hf.data.actions.preparing import ActionOptions, prepare_actions
from hmba_hf.data.preparing.converting import RunOptions, format_report
from hmba_hf.data.preparing.publishing import PushOptions, push_folder


def main() -> None:
    """Convert, report, push."""
    parser = HfArgumentParser(
        [ActionOptions, RunOptions, PushOptions], description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    options, run, push = parser.parse_args_into_dataclasses()
    if options.by_path and push.push_to_hub is not None:
        raise ValueError("by_path must be false to push a dataset, whose rows would name files that nobody has")
    print(format_report(prepare_actions(options, run)))
    print(f"dataset and report.json: {run.output_dir}")
    if push.push_to_hub is not None:
        print(f"pushed to {push_folder(run.output_dir, push)}")


if __name__ == "__main__":
    main()
