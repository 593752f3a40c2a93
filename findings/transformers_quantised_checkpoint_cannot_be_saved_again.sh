#!/usr/bin/env bash
# A model that was loaded from a quantised checkpoint cannot be saved.
#
# Packages: transformers 5.24.0, bitsandbytes 0.50.2, torch 2.13.0, accelerate 1.15.0.
# Expected: `save_pretrained` writes the weights that `from_pretrained` has read.
# Seen: it ends in a NotImplementedError without a word, since it would undo an operation of loading that has no
#     reverse. The weights need none: their state_dict has the form of the file.
# Why it matters: a quantised checkpoint can be neither copied nor pushed by way of the model.
# How to live with it: drop from `_weight_conversions` what cannot be reversed, as `keep_savable` does.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0 bitsandbytes==0.50.2

venv/bin/python - <<'PYTHON'
import sys

from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128}
LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)).save_pretrained("model")
bits = BitsAndBytesConfig(load_in_4bit=True)
LlamaForCausalLM.from_pretrained("model", quantization_config=bits).save_pretrained("small")
again = LlamaForCausalLM.from_pretrained("small")
try:
    again.save_pretrained("again")
except NotImplementedError as error:
    print(f"NotImplementedError{error.args}")
else:
    sys.exit("This has changed.")
PYTHON
