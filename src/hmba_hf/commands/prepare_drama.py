"""Make a dataset of DRAMA: five frames of a clip, a question, and an answer with the box of what is at risk.

    hmba prepare drama --annotations integrated_output_v2.json --images drama --output_dir drama-hf

`load_dataset("drama-hf")` and `hmba finetune --dataset_name drama-hf` read the result. `--images` is the folder that
holds `combined`. `report.json` names each record left out, with the reason. The same command resumes a stopped run.

`--annotations_only` writes no pictures, but reads the size of the key frames, because boxes are fractions of it.
`--push_to_hub name/drama` uploads the result to a private repository. The files of the released H-MBA code are
accepted, too:

    hmba prepare drama --train_file drama_train_SC.jsonl --test_file drama_test_SC.jsonl \\
        --images format --output_dir drama-hf
"""

from collections.abc import Sequence

from hmba_hf.commands.preparing import prepare
from hmba_hf.data.driving.drama import DramaOptions, prepare_drama
from hmba_hf.messages import run_command


def main(words: Sequence[str] | None = None) -> None:
    """Convert, report, push."""
    prepare(DramaOptions, prepare_drama, __doc__, program="hmba prepare drama", words=words)


if __name__ == "__main__":
    run_command(main)
