#!/usr/bin/env bash
# Cosmos 3 Edge refuses the inputs that its own processor makes by default.
#
# Packages: transformers 5.24.0, torch 2.14.1, torchvision 0.29.1, pillow 13.0.0.
# Expected: the processor gives all its `model_input_names` about a picture, as Qwen3-VL's does from the same parts.
# Seen: no `mm_token_type_ids`, though they are among the names, and the model demands them: "`mm_token_type_ids` is
#     returned by the processor alongside `input_ids`". The flag for them is off by default in `ProcessingKwargs`, and
#     this processor, unlike Qwen's, does not turn it on.
# Why it matters: `apply_chat_template` and `generate`, called as in the model's documentation, end in a ValueError.
# How to live with it: pass `return_mm_token_type_ids=True`, in `apply_chat_template` within `processor_kwargs`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 transformers==5.24.0 pillow==13.0.0

venv/bin/python - <<'PYTHON'
import sys

from PIL import Image
from tokenizers import Tokenizer, models
from transformers import (
    Cosmos3EdgeConfig,
    Cosmos3EdgeForConditionalGeneration,
    Cosmos3EdgeImageProcessor,
    Cosmos3EdgeProcessor,
    Cosmos3EdgeVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen3VLProcessor,
)

TOKENS = ["?", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
ASKED = {"processor_kwargs": {"return_mm_token_type_ids": True}}
words = Tokenizer(models.WordLevel({token: number for number, token in enumerate(TOKENS)}, unk_token="?"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", additional_special_tokens=TOKENS[1:])
pictures = Cosmos3EdgeImageProcessor(patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096})
parts = (pictures, tokenizer, Cosmos3EdgeVideoProcessor())
sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
config = Cosmos3EdgeConfig(
    vision_config=sizes | {"patch_size": 8, "num_patches": 64, "spatial_merge_size": 2},
    text_config=sizes
    | {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(TOKENS)}
    | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
    projector_hidden_size=32,
    vision_start_token_id=1,
    image_token_id=2,
    vision_end_token_id=3,
    video_token_id=4,
)
model = Cosmos3EdgeForConditionalGeneration(config).eval()


def inputs(processor_class, **options):
    """Ask the processor about a picture as the documentation does."""
    processor = processor_class(*parts, chat_template="<|vision_start|><|image_pad|><|vision_end|>")
    assert "mm_token_type_ids" in processor.model_input_names
    chat = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (32, 32))}]}]
    return processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt", **options)


def answer(made):
    """Return how many tokens the model adds, or the error."""
    try:
        return model.generate(**made, max_new_tokens=2).shape[1] - made["input_ids"].shape[1]
    except ValueError as error:
        return str(error)


made = {
    "Qwen3VLProcessor": inputs(Qwen3VLProcessor),
    "Cosmos3EdgeProcessor": inputs(Cosmos3EdgeProcessor),
    "Cosmos3EdgeProcessor, asked": inputs(Cosmos3EdgeProcessor, **ASKED),
}
for name, given in made.items():
    print(f"{name}: {', '.join(sorted(given))}")
given = ["mm_token_type_ids" in names for names in made.values()]
default, asked = answer(made["Cosmos3EdgeProcessor"]), answer(made["Cosmos3EdgeProcessor, asked"])
print(f"model by default: {default}\nmodel, asked: {asked} new tokens")
if given != [True, False, True] or "`mm_token_type_ids` is missing" not in str(default) or asked != 2:
    sys.exit("This has changed.")
PYTHON
