"""A base on disk, small enough to fine-tune in a second, and a way to fine-tune it inside this process."""

from hmba_hf import HMBAProcessor, HMBAVideoProcessor
from hmba_hf.tasks.answering.arguments import parse_arguments
from hmba_hf.tasks.answering.run import finetune
from tiny_models import tiny_model, tiny_tower
from tiny_processors import tiny_tokenizer

# Vicuna's system sentence would be most of a prompt of one token for each character.
SHORT_TEMPLATE = """\
{%- for message in messages -%}
    {%- for block in message['content'] -%}
        {%- if message['role'] == 'assistant' -%}
            {%- generation -%}{{- block['text'] ~ eos_token -}}{%- endgeneration -%}
        {%- else -%}
            {{- block['text'] ~ ' ' if block['type'] == 'text' else '<video>' -}}
        {%- endif -%}
    {%- endfor -%}
{%- endfor -%}
"""
FAST = ["--use_cpu", "True", "--learning_rate", "1e-2", "--logging_steps", "1", "--disable_tqdm", "True"]


def save_base(folder, **kwargs):
    """Save a random model of 32 px frames in 2 x 2 patches with its processor; `kwargs` are values of its config."""
    config = {"vision_config": tiny_tower(image_size=32, patch_size=16), "adapter": "none", **kwargs}
    tiny_model(**config).save_pretrained(folder)
    video_processor = HMBAVideoProcessor(size={"height": 32, "width": 32})
    processor = HMBAProcessor(video_processor, tiny_tokenizer(), patch_size=16, chat_template=SHORT_TEMPLATE)
    processor.save_pretrained(folder)
    return folder


def tune(base, folder, *words, **options):
    """Fine-tune as the example does; `options` are other ones of `finetune`; return the trainer."""
    own = ["--model", base, "--output_dir", folder, "--max_train_samples", 10]
    words = [*own, "--per_device_train_batch_size", 2, *FAST, *words]
    return finetune(*parse_arguments("", [str(word) for word in words]), **options)
