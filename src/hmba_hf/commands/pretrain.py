"""Pre-train VideoMamba without labels: it learns what a frozen CLIP sees in the patches that a mask leaves visible.

    hmba pretrain --preset published --dataset_name org/kinetics \\
        --output_dir videomamba-pretrained
    hmba pretrain ... --masking tube --mask_ratio 0.8 --align_last_output True
    hmba pretrain ... --num_views 4 --teacher_cache teacher
    hmba pretrain ... --eval_strategy epoch --eval_split validation

`--model` is `tiny`, `small`, `middle` or `base`, drawn anew, or a folder or Hub id of a VideoMamba, such as one that
knows ImageNet's classes. `--teacher` is any CLIP whose patches are as many as the model's; its features need
`--alignment_size`, where that is not 512. `--dataset_name` takes folders and Hub ids of videos, and `micro-world`,
which needs no download. Every option of `TrainingArguments` is accepted.

With `--eval_strategy`, `eval_loss` is the distance from the teacher on held-out clips, whose masks are always the
same. The same command resumes from its last whole checkpoint. With `--enable_jit_checkpoint True`, SIGTERM ends the
run with a checkpoint. The run writes the model, `history.json`, and pictures of loss and metrics. Fine-tune it with
`hmba finetune classification`. `--accelerate_config ddp`, `--num_processes 2` and others are options of Accelerate's
launcher.
"""

from collections.abc import Sequence

from hmba_hf.commands.training import run_training
from hmba_hf.messages import run_command
from hmba_hf.tasks.pretraining.arguments import parse_arguments
from hmba_hf.tasks.pretraining.run import pretrain


def main(words: Sequence[str] | None = None) -> None:
    """Train, resume or finish the run that the words of a command line describe."""
    run_training(pretrain, parse_arguments, __doc__, program="hmba pretrain", words=words)


if __name__ == "__main__":
    run_command(main)
