"""Train a VideoMamba beside a BERT on videos and their texts, for retrieval both ways.

    hmba finetune retrieval --preset published --vision videomamba-pretrained \\
        --text google-bert/bert-base-uncased --dataset_name org/captions --output_dir videomamba-retrieval
    hmba finetune retrieval --preset unmasked --model videomamba-retrieval ...
    hmba finetune retrieval --preset msrvtt --model org/retrieval --dataset_name org/msr-vtt ...

It starts from `--model`, or joins `--vision`, which `hmba pretrain` has made, and `--text`, a BERT. The
losses are contrast and matching; masked language unless `--hidden_words 0`; and with `--teacher` the distance from a
CLIP's features of what a mask leaves visible. Datasets have the columns `id`, `video` and `caption`; a dataset of
actions, `micro-actions` among them, has the names of its classes as texts. Every option of `TrainingArguments` is
accepted.

`--accelerate_config ddp`, `--num_processes 2` and others are options of Accelerate's launcher.

The same command resumes from its last whole checkpoint. With `--enable_jit_checkpoint True`, SIGTERM ends the run with
a checkpoint. The run writes the model, `history.json`, and pictures of loss and metrics. `hmba predict` and
`hmba evaluate` then measure R@1, R@5, R@10 and median ranks, with and without reading the best pairs together.
"""

from collections.abc import Sequence

from hmba_hf.commands.training import run_training
from hmba_hf.messages import run_command
from hmba_hf.tasks.retrieval.arguments import parse_arguments
from hmba_hf.tasks.retrieval.run import train


def main(words: Sequence[str] | None = None) -> None:
    """Train, resume or finish the run that the words of a command line describe."""
    run_training(train, parse_arguments, __doc__, program="hmba finetune retrieval", words=words)


if __name__ == "__main__":
    run_command(main)
