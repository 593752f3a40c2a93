#!/usr/bin/env bash
# Granite 4 Vision cannot read a prompt with a picture in chunks, however large the chunks are.
#
# Packages: transformers 5.24.0, torch 2.13.0.
# Expected: `generate(prefill_chunk_size=n)` bounds memory and changes no answer, or is refused in words.
# Seen: KeyError 'pooler_output'. The features of the picture are split by `pooler_output`, and this family gives
#     `deepstack_features` alone. Text without pictures works in chunks, and so does LLaVA with pictures.
# Why it matters: one option for all families works until this model gets a picture.
# How to live with it: give no `prefill_chunk_size` where the family's image features have no `pooler_output`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0

venv/bin/python - <<'PYTHON'
import sys

import torch
from transformers import Granite4VisionConfig, Granite4VisionForConditionalGeneration

IMAGE = 31  # the placeholder token: four for the whole picture, and two rows of three, with line ends, for its tile
torch.manual_seed(0)
shape = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
tower = {"model_type": "siglip_vision_model", "image_size": 8, "patch_size": 2, "vision_use_head": False}
config = Granite4VisionConfig(
    vision_config=shape | tower,
    text_config=shape | {"vocab_size": 32, "pad_token_id": 0},
    qformer_config={"model_type": "blip_2_qformer", "num_hidden_layers": 1, "intermediate_size": 64},
    image_token_index=IMAGE,
    image_grid_pinpoints=[[8, 8]],
    vision_feature_select_strategy="full",
    downsample_rate="1/2",
    deepstack_layer_map=[[-1, 0]],
    spatial_vision_layer=-2,
    spatial_target_layers=[1],
)
model = Granite4VisionForConditionalGeneration(config).eval()
picture = {"pixel_values": torch.randn(1, 2, 3, 8, 8), "image_sizes": torch.tensor([[8, 8]])}
words = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11, 2, 3, 4]])
about_picture = torch.tensor([[1, *[IMAGE] * 10, 2, 3, 4]])


def answer(prompt, **options):
    """Return the new tokens, or the error."""
    mask = torch.ones_like(prompt)
    try:
        tokens = model.generate(prompt, attention_mask=mask, max_new_tokens=3, do_sample=False, **options)
    except KeyError as error:
        return f"KeyError {error}"
    return tokens[0, prompt.shape[1] :].tolist()


text = [answer(words, **options) for options in ({}, {"prefill_chunk_size": 7})]
print(f"text alone: {text[0]} in one piece, {text[1]} in chunks of 7")
whole = answer(about_picture, **picture)
chunked = [answer(about_picture, prefill_chunk_size=size, **picture) for size in (7, 64)]
print(f"with a picture: {whole} in one piece, {chunked[0]} in chunks of 7, {chunked[1]} in chunks of 64")
if text[0] != text[1] or len(whole) != 3 or chunked != ["KeyError 'pooler_output'"] * 2:
    sys.exit("This has changed.")
PYTHON
