#!/usr/bin/env bash
# A vision-language model that reads its prompt in chunks answers without having seen the picture.
#
# Packages: transformers 5.22.0, torch 2.13.0; transformers 5.24.0 is right.
# Expected: `generate(prefill_chunk_size=n)` bounds memory and changes no answer, as it does for text alone.
# Seen: with any chunk size, two different pictures get exactly the same scores, and no warning says so.
# Why it matters: the answers stay fluent, so that only a worse score shows that the pictures are not read.
# How to live with it: give no `prefill_chunk_size` together with pixels before transformers 5.23.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.22.0

venv/bin/python - <<'PYTHON'
import sys

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE = 31  # the placeholder token, one for each of the four patches
torch.manual_seed(0)
shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
vision = CLIPVisionConfig(**shape, num_hidden_layers=2, image_size=8, patch_size=4)
text = LlamaConfig(**shape, num_hidden_layers=1, vocab_size=32)
config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-1)
model = LlavaForConditionalGeneration(config).eval()
for parameter in model.parameters():
    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=0.3)
prompt = torch.tensor([[1, IMAGE, IMAGE, IMAGE, IMAGE, 2, 3, 4]])


def scores(**inputs):
    """Return the scores of the first new token."""
    options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    mask = torch.ones_like(inputs["input_ids"])
    return model.generate(attention_mask=mask, **inputs, **options).logits[0]


def difference(**options):
    """Return by how much the scores of two random pictures differ."""
    one = scores(input_ids=prompt, pixel_values=pictures[0], **options)
    other = scores(input_ids=prompt, pixel_values=pictures[1], **options)
    return (one - other).abs().max().item()


pictures = torch.randn(2, 1, 3, 8, 8)
words = torch.tensor([[1, 5, 6, 7, 8, 2, 3, 4]])
text_change = (scores(input_ids=words) - scores(input_ids=words, prefill_chunk_size=4)).abs().max().item()
whole = difference()
chunked = difference(prefill_chunk_size=4)
print(f"two pictures differ by {whole:.2f} in one piece, by {chunked:.2f} in chunks of 4")
print(f"text alone changes by {text_change:.2f} through chunks of 4")
if whole < 0.1 or chunked != 0 or text_change > 1e-4:
    sys.exit("This has changed.")
PYTHON
