"""Make a dataset of DRAMA: five frames of a clip, a question, and an answer with the box of what is at risk.

    python examples/prepare_drama.py --annotations integrated_output_v2.json --images drama --output_dir drama-hf

`load_dataset("drama-hf")` and `finetune.py --dataset_name drama-hf` read the result. `--images` is the folder that
holds `combined`. `report.json` names each record left out, with the reason. The same command resumes a stopped run.

`--annotations_only` writes no pictures, but reads the size of the key frames, because boxes are fractions of it.
`--push_to_hub name/drama` uploads the result to a private repository. The files of the released H-MBA code are
accepted, too:

    python examples/prepare_drama.py --train_file drama_train_SC.jsonl --test_file drama_test_SC.jsonl \\
        --images format --output_dir drama-hf
"""

from argparse import RawDescriptionHelpFormatter

from transformers import HfArgumentParser

from hmba_hf.data.driving.drama import DramaOptions, prepare_drama
from hmba_hf.data.preparing.converting import RunOptions, format_report
from hmba_hf.data.preparing.publishing import PushOptions, push_folder


def main() -> None:
    """Convert, report, push."""
    parser = HfArgumentParser(
        [DramaOptions, RunOptions, PushOptions], description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    options, run, push = parser.parse_args_into_dataclasses()
    print(format_report(prepare_drama(options, run)))
    print(f"dataset and report.json: {run.output_dir}")
    if push.push_to_hub is not None:
        print(f"pushed to {push_folder(run.output_dir, push)}")


if __name__ == "__main__":
    main()
