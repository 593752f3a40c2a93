#!/usr/bin/env bash
# The dictionary of weights that is given to save_pretrained is empty afterwards.
#
# Packages: transformers 5.24.0, torch 2.13.0.
# Expected: `state_dict` is documented as what to save. Saving reads it and leaves it to the caller, as
#     `torch.save` and `safetensors.torch.save_file` do.
# Seen: `save_pretrained(folder, state_dict=weights)` takes every entry out of `weights`.
# Why it matters: whoever gathers the weights of a sharded model once, to save and then to compare, upload or average
#     them, goes on with nothing. A loop over the empty dictionary raises no error.
# How to live with it: pass a shallow copy, `state_dict=dict(weights)`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0

venv/bin/python - <<'PYTHON'
import sys

from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
weights = model.state_dict()
entries = len(weights)
save_file(weights, "weights.safetensors")
after_sister = len(weights)
model.save_pretrained("copied", state_dict=dict(weights))
after_copy = len(weights)
model.save_pretrained("given", state_dict=weights)
print(f"{entries} entries; {after_sister} after save_file, {after_copy} after save_pretrained of a copy,", end=" ")
print(f"{len(weights)} after save_pretrained of the dictionary itself")
if (after_sister, after_copy, len(weights)) != (entries, entries, 0):
    sys.exit("This has changed.")
PYTHON
