"""Fine-tune a MambaVL, or join a video and a text model in a new one, to answer a question for each of its heads.

    hmba finetune questions --vision openai/clip-vit-base-patch16 \\
        --text FacebookAI/roberta-base --dataset_name org/epic-kitchens --preset epic-recognition --output_dir mambavl
    hmba finetune questions --model mambavl --dataset_name org/epic-kitchens \\
        --questions annotation --hide_words ...
    hmba finetune questions ... --heads verb
    hmba finetune questions --dataset_name org/k400 \\
        --generic_questions "What does the person do in the video?" ...
    hmba finetune questions ... --push_to_hub --hub_model_id org/mambavl

`--dataset_name` takes folders and Hub ids in the schema of questioned actions, whose heads become those of the model,
or of actions, which have the head `action`. `--questions` says what is asked: the same questions about all clips,
which is the default, those of a source that the rows have, or nothing. Questions of annotations are made from the
right answers, so what a model scores with them is an upper bound. Every option of `TrainingArguments` is accepted.

`--accelerate_config ddp`, `--num_processes 2` and others are options of Accelerate's launcher.

The same command resumes from its last whole checkpoint, with the same crops, mixtures and noise. With
`--enable_jit_checkpoint True`, SIGTERM ends the run with a checkpoint. The run writes the model, `history.json`, and
pictures of loss and metrics. `hmba predict` and `hmba evaluate` score it, with generic questions unless they are told.
"""

from collections.abc import Sequence

from hmba_hf.commands.training import run_training
from hmba_hf.messages import run_command
from hmba_hf.tasks.classification.question_arguments import parse_arguments
from hmba_hf.tasks.classification.question_run import finetune


def main(words: Sequence[str] | None = None) -> None:
    """Train, resume or finish the run that the words of a command line describe."""
    run_training(finetune, parse_arguments, __doc__, program="hmba finetune questions", words=words)


if __name__ == "__main__":
    run_command(main)
