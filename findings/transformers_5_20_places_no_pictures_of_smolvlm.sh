#!/usr/bin/env bash
# SmolVLM of transformers 5.20 can place no picture: it takes the side of a patch for the number of a picture's tokens.
#
# Package: transformers 5.20.2 with torch 2.13.0. 5.19.0 and 5.21.1 do it right.
# Expected: a picture of 384 pixels with patches of 14 becomes 81 tokens, as in the published model of 2.2 B, and the model
#     reads them.
# Seen: `ValueError: At least one sample has <image> tokens not divisible by patch_size.`, or an error about a shape: 81
#     tokens are no multiple of 14.
# Why it matters: the range of versions that a package allows holds one in its middle in which a base does not run.
# How to live with it: `transformers!=5.20.*` beside SmolVLM.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.20.2
venv/bin/pip install --quiet --no-deps --target before transformers==5.19.0
venv/bin/pip install --quiet --no-deps --target after transformers==5.21.1

cat > picture.py <<'PYTHON'
import sys

import torch
import transformers
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
config = SmolVLMConfig(
    vision_config={**size, "image_size": 384, "patch_size": 14},
    text_config={"model_type": "llama", **size, "num_key_value_heads": 2, "vocab_size": 40, "pad_token_id": 0},
    image_token_id=39,
    scale_factor=3,
)
model = SmolVLMForConditionalGeneration(config).eval()
words = torch.tensor([[1, *[39] * 81, 2]])
try:
    with torch.no_grad():
        model(input_ids=words, pixel_values=torch.zeros(1, 1, 3, 384, 384))
    outcome = "runs"
except (RuntimeError, ValueError) as error:
    outcome = f"{type(error).__name__}: {str(error).splitlines()[0]}"
print(f"transformers {transformers.__version__}: {outcome}")
if (outcome == "runs") == transformers.__version__.startswith("5.20."):
    sys.exit("This has changed.")
PYTHON
for place in before . after; do
  PYTHONPATH="$place" venv/bin/python picture.py 2> log || { cat log; exit 1; }
done
