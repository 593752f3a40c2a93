#!/usr/bin/env bash
# A model with DoRA updates is loaded without their magnitudes, and answers otherwise than it was trained.
#
# Packages: transformers 5.24.0, peft 0.21.2, torch 2.13.0.
# Expected: `AutoModelForCausalLM.from_pretrained(updates)` gives the logits of `PeftModel.from_pretrained`.
# Seen: the file of PEFT has `lora_magnitude_vector`, transformers looks for `lora_magnitude_vector.weight`. The
#     magnitudes are drawn anew, and a report in the log is the only sign.
# Why it matters: part of what was trained is missing, and the answers are plausible.
# How to live with it: load updates with DoRA by `PeftModel.from_pretrained`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 peft==0.21.2

venv/bin/python - <<'PYTHON'
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16}
LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)).save_pretrained("base")
ids = torch.arange(8)[None]


def differences(folder, **options):
    """Save updates, load them by both libraries, and return the largest difference of logits and the missing keys."""
    updates = LoraConfig(target_modules=["v_proj"], init_lora_weights=False, **options)
    get_peft_model(LlamaForCausalLM.from_pretrained("base"), updates).save_pretrained(folder)
    by_peft = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained("base"), folder)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    with torch.no_grad():
        difference = (model(ids).logits - by_peft(ids).logits).abs().max().item()
    return difference, sorted(report["missing_keys"])


plain = differences("plain")
dora = differences("dora", use_dora=True)
print(f"LoRA: difference {plain[0]:.1e}, missing {plain[1]}")
print(f"DoRA: difference {dora[0]:.1e}, missing {dora[1]}")
missing = ["model.layers.0.self_attn.v_proj.lora_magnitude_vector.default.weight"]
if plain != (0.0, []) or dora[0] < 1e-4 or dora[1] != missing:
    sys.exit("This has changed.")
PYTHON
