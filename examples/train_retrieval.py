"""Train a VideoMamba beside a BERT on videos and their texts, for retrieval both ways.

    accelerate launch examples/train_retrieval.py --preset published --vision videomamba-pretrained \\
        --text google-bert/bert-base-uncased --dataset_name org/captions --output_dir videomamba-retrieval
    accelerate launch examples/train_retrieval.py --preset unmasked --model videomamba-retrieval ...
    accelerate launch examples/train_retrieval.py --preset msrvtt --model org/retrieval --dataset_name org/msr-vtt ...

It starts from `--model`, or joins `--vision`, which `pretrain_videomamba.py` has made, and `--text`, a BERT. The
losses are contrast and matching; masked language unless `--hidden_words 0`; and with `--teacher` the distance from a
CLIP's features of what a mask leaves visible. Datasets have the columns `id`, `video` and `caption`; a dataset of
actions, `micro-actions` among them, has the names of its classes as texts. Every option of `TrainingArguments` is
accepted.

The same command resumes from its last whole checkpoint. With `--enable_jit_checkpoint True`, SIGTERM ends the run with
a checkpoint. The run writes the model, `history.json`, and pictures of loss and metrics. `predict.py` and
`evaluate.py` then measure R@1, R@5, R@10 and median ranks, with and without reading the best pairs together.
"""

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.messages import show_messages
from hmba_hf.tasks.retrieval.arguments import parse_arguments
from hmba_hf.tasks.retrieval.run import train

if __name__ == "__main__":
    show_messages()
    train(*parse_arguments(__doc__))
