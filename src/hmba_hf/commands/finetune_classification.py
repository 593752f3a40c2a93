"""Fine-tune a VideoMamba, or a new one, to tell classes of clips apart.

    hmba finetune classification --model org/videomamba-small --dataset_name org/k400 \\
        --preset k400-small --output_dir videomamba-k400
    hmba finetune classification --accelerate_config fsdp ...
    hmba finetune classification ... --teacher videomamba-k400-tiny
    hmba finetune classification ... --push_to_hub --hub_model_id org/videomamba-k400

`--dataset_name` takes folders and Hub ids in the schema of actions (`org/k400@v1` for a revision). A base of pictures,
of other classes, or of masked pre-training is fine: it gets a new head, and `--num_frames` and `--image_size`
interpolate its tables. Every option of `TrainingArguments` is accepted. `--base_learning_rate` is for 256 clips a
step.

`--accelerate_config ddp`, `--num_processes 2` and others are options of Accelerate's launcher.

The same command resumes from its last whole checkpoint, with the same crops, mixtures and noise. With
`--enable_jit_checkpoint True`, SIGTERM ends the run with a checkpoint. The run writes the model, `history.json`, and
pictures of loss and metrics. `hmba predict` and `hmba evaluate` score it over several views.
"""

from collections.abc import Sequence

from hmba_hf.commands.training import run_training
from hmba_hf.messages import run_command
from hmba_hf.tasks.classification.arguments import parse_arguments
from hmba_hf.tasks.classification.run import finetune


def main(words: Sequence[str] | None = None) -> None:
    """Train, resume or finish the run that the words of a command line describe."""
    run_training(finetune, parse_arguments, __doc__, program="hmba finetune classification", words=words)


if __name__ == "__main__":
    run_command(main)
