"""Make a dataset of EPIC-KITCHENS-100: one clip for each action, with its verb and its noun, and questions about it.

    hmba prepare epic-kitchens --videos EPIC-KITCHENS --verb_classes EPIC_100_verb_classes.csv \\
        --noun_classes EPIC_100_noun_classes.csv --train_files EPIC_100_train.csv \\
        --validation_files EPIC_100_validation.csv --output_dir EPIC

The files are those of github.com/epic-kitchens/epic-kitchens-100-annotations; `--test_files` takes the list without
labels. Times decide what a clip shows, not frame numbers. `--task anticipation` shows the `--window` seconds that end
`--anticipation_time` seconds before an action. `hmba finetune questions --dataset_name EPIC` reads the result.

`--annotation_questions` and `--predicted_questions` are CSV or JSON files with the columns narration_id, verb_question
and noun_question. Rows keep them apart by their source. Questions that are pickles have to be written as CSV first,
where they can be trusted. `--label_questions` makes annotation questions of the verb and the noun of each action.

`--validation_unseen`, `--test_unseen`, `--tail_verbs` and `--tail_nouns` are the lists of groups that come with the
annotations. They become tags, by which scores are split.

`report.json` counts and names each entry that makes no row, with the reason. The same command resumes a stopped run.
`--push_to_hub name/epic` uploads the result to a private repository.
"""

from collections.abc import Sequence

from hmba_hf.commands.preparing import prepare
from hmba_hf.data.actions.epic_kitchens import EpicKitchensOptions, prepare_epic_kitchens
from hmba_hf.messages import run_command


def main(words: Sequence[str] | None = None) -> None:
    """Convert, report, push."""
    prepare(EpicKitchensOptions, prepare_epic_kitchens, __doc__, program="hmba prepare epic-kitchens", words=words)


if __name__ == "__main__":
    run_command(main)
