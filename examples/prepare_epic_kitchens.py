"""Make a dataset of EPIC-KITCHENS-100: one clip for each action, with its verb and its noun, and questions about it.

    python examples/prepare_epic_kitchens.py --videos EPIC-KITCHENS --verb_classes EPIC_100_verb_classes.csv \
        --noun_classes EPIC_100_noun_classes.csv --train_files EPIC_100_train.csv \
        --validation_files EPIC_100_validation.csv --output_dir EPIC

The files are those of github.com/epic-kitchens/epic-kitchens-100-annotations; `--test_files` takes the list without
labels. Times decide what a clip shows, not frame numbers. `--task anticipation` shows the `--window` seconds that end
`--anticipation_time` seconds before an action. `finetune_mambavl.py --dataset_name EPIC` reads the result.

`--annotation_questions` and `--predicted_questions` are CSV or JSON files with the columns narration_id, verb_question
and noun_question. Rows keep them apart by their source. Questions that are pickles have to be written as CSV first,
where they can be trusted. `--label_questions` makes annotation questions of the verb and the noun of each action.

`--validation_unseen`, `--test_unseen`, `--tail_verbs` and `--tail_nouns` are the lists of groups that come with the
annotations. They become tags, by which scores are split.

`report.json` counts and names each entry that makes no row, with the reason. The same command resumes a stopped run.
`--push_to_hub name/epic` uploads the result to a private repository.
"""

from argparse import RawDescriptionHelpFormatter

from transformers import HfArgumentParser

from hmba_hf.data.actions.epic_kitchens import EpicKitchensOptions, prepare_epic_kitchens
from hmba_hf.data.preparing.converting import RunOptions, format_report
from hmba_hf.data.preparing.publishing import PushOptions, push_folder


def main() -> None:
    """Convert, report, push."""
    parser = HfArgumentParser(
        [EpicKitchensOptions, RunOptions, PushOptions],
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    options, run, push = parser.parse_args_into_dataclasses()
    print(format_report(prepare_epic_kitchens(options, run)))
    print(f"dataset and report.json: {run.output_dir}")
    if push.push_to_hub is not None:
        print(f"pushed to {push_folder(run.output_dir, push)}")


if __name__ == "__main__":
    main()
