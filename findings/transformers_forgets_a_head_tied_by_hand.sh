#!/usr/bin/env bash
# A head that is tied to the embeddings by hand is left out by `save_pretrained` and drawn anew by `from_pretrained`.
#
# Packages: transformers 5.24.0, torch 2.13.0.
# Expected: with `tie_word_embeddings=False` the head is a weight of its own, so it is saved, or saving is refused.
# Seen: the head shares its memory with the embeddings, so it counts as tied and is not saved. Loading, which follows
#     the configuration, finds no head and draws one.
# Why it matters: the logits after loading are those of a random head; only a report of missing keys tells.
# How to live with it: set `config.tie_word_embeddings = True` before saving, or give the head a copy of the weight.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0

venv/bin/python - <<'PYTHON'
import sys

import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=False)).eval()
model.lm_head.weight = model.get_input_embeddings().weight
model.save_pretrained("saved")
with safe_open("saved/model.safetensors", "pt") as file:
    is_saved = "lm_head.weight" in file.keys()
loaded, report = LlamaForCausalLM.from_pretrained("saved", output_loading_info=True)
words = torch.arange(8)[None]
difference = (loaded.eval()(words).logits - model(words).logits).abs().max().item()
print(f"head in the file: {is_saved}; missing when loaded: {sorted(report['missing_keys'])}")
print(f"largest difference of logits: {difference:.3f}")
if is_saved or "lm_head.weight" not in report["missing_keys"] or difference < 1e-3:
    sys.exit("This has changed.")
PYTHON
