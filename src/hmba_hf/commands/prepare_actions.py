"""Make a dataset of actions: one row for each video, with its class.

    hmba prepare actions --videos k400 --train_files train.csv --test_files val.csv --output_dir K400
    hmba prepare actions --videos 20bn-something-something-v2 --labels labels.json \\
        --train_files train.json --validation_files validation.json --output_dir SSV2
    hmba prepare actions --videos breakfast --output_dir BREAKFAST

The lists are those of Kinetics, those of Something-Something, or lines of a path and a label. Without lists, videos
lie in folders named by their classes, in folders named by splits if there are several. `hmba finetune classification
--dataset_name K400` reads the result.

`report.json` counts and names each video that is missing or broken and each entry of a list that makes no row. The
same command resumes a stopped run. `--by_path` keeps the paths of the videos instead of their bytes. `--push_to_hub
name/actions` uploads the result to a private repository.
"""

from collections.abc import Sequence

from hmba_hf.commands.preparing import prepare
from hmba_hf.data.actions.preparing import ActionOptions, prepare_actions
from hmba_hf.messages import run_command


def main(words: Sequence[str] | None = None) -> None:
    """Convert, report, push."""
    prepare(ActionOptions, prepare_actions, __doc__, program="hmba prepare actions", words=words)


if __name__ == "__main__":
    run_command(main)
