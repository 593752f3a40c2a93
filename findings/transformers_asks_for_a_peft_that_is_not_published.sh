#!/usr/bin/env bash
# transformers 5.24 refuses every published PEFT when it is to add an adapter to a model.
#
# Packages: transformers 5.24.0, peft 0.21.2, torch 2.13.0.
# Expected: `model.add_adapter(LoraConfig(...))` works with the newest release of PEFT, as `get_peft_model` does.
# Seen: ValueError "please use a version >= 0.22.0", a version that nobody can install yet. `set_adapter`,
#     `active_adapters` and `get_adapter_state_dict` ask the same; `load_adapter` does not ask and works.
# Why it matters: `save_pretrained` of a model with a loaded adapter fails, too: it can be read but not written.
# How to live with it: wrap the model with `peft.get_peft_model`, or stay at transformers 5.22.0 until then.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 peft==0.21.2

venv/bin/python - <<'PYTHON'
import sys

from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8}
config = LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
updates = LoraConfig(target_modules=["q_proj"])
wrapped = type(get_peft_model(LlamaForCausalLM(config), updates)).__name__
try:
    LlamaForCausalLM(config).add_adapter(updates)
    added = "added"
except ValueError as error:
    added = str(error)
print(f"get_peft_model: {wrapped}; add_adapter: {added}")
if wrapped != "PeftModel" or ">= 0.22.0" not in added:
    sys.exit("This has changed.")
PYTHON

if venv/bin/pip download --quiet --no-deps --dest later "peft>=0.22.0" 2>pip.log; then
    echo "This has changed: such a PEFT is published."
    exit 1
fi
grep "No matching distribution found" pip.log
