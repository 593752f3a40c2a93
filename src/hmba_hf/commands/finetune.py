"""Fine-tune H-MBA: the vision tower frozen, the adapter, the projector and the language model learning.

    hmba finetune --model org/hmba-base --dataset_name org/drama \\
        --preset drama --output_dir hmba-drama
    hmba finetune --accelerate_config fsdp ...
    hmba finetune ... --learns adapter projector lora --feature_cache features
    hmba finetune ... --push_to_hub --hub_model_id org/hmba-drama
    hmba finetune --model Qwen/Qwen3-VL-2B-Instruct --dataset_name org/drama ...

`--dataset_name` takes folders and Hub ids in the DRAMA or the BDD-X schema (`org/drama@v1` for a revision), and
`micro-world`, which needs no download. Its results do not transfer to real roads. Every option of
`TrainingArguments` is accepted. A folder of low-rank updates as `--model` is trained further with
`--learns ... lora`, and merged without. A vision-language model of transformers as `--model` gets a fresh adapter,
which learns alone unless `--learns` says otherwise.

`hmba finetune classification`, `questions` and `retrieval` train models of those tasks, each with its own `--help`.
`--accelerate_config fsdp`, `--num_processes 2` and others are options of Accelerate's launcher.

The same command resumes from its last whole checkpoint. With `--enable_jit_checkpoint True`, SIGTERM ends the run with
a checkpoint. The run writes the model, `history.json`, and pictures of loss and metrics.
"""

from collections.abc import Sequence

from hmba_hf.commands.training import run_training
from hmba_hf.messages import run_command
from hmba_hf.tasks.answering.arguments import parse_arguments
from hmba_hf.tasks.answering.run import finetune


def main(words: Sequence[str] | None = None) -> None:
    """Train, resume or finish the run that the words of a command line describe."""
    run_training(finetune, parse_arguments, __doc__, program="hmba finetune", words=words)


if __name__ == "__main__":
    run_command(main)
