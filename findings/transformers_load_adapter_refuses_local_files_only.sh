#!/usr/bin/env bash
# load_adapter refuses its own option local_files_only.
#
# Packages: transformers 5.24.0, peft 0.21.2, torch 2.13.0.
# Expected: `local_files_only` stands in the signature of `load_adapter`, so that it loads a folder as without it.
# Seen: TypeError. The option is handed to `LoadStateDictConfig`, which has no such field.
# Why it matters: programs that must not ask the Hub cannot say so at the call.
# How to live with it: set HF_HUB_OFFLINE=1, or pass `adapter_kwargs={"local_files_only": True}`.
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

sizes = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16}
LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)).save_pretrained("base")
updates = LoraConfig(target_modules=["q_proj"])
get_peft_model(LlamaForCausalLM.from_pretrained("base"), updates).save_pretrained("updates")

LlamaForCausalLM.from_pretrained("base").load_adapter("updates", adapter_kwargs={"local_files_only": True})
print("adapter_kwargs={'local_files_only': True}: loaded")
try:
    LlamaForCausalLM.from_pretrained("base").load_adapter("updates", local_files_only=True)
    result = "loaded"
except TypeError as error:
    result = f"TypeError: {error}"
print(f"local_files_only=True: {result}")
if "unexpected keyword argument 'local_files_only'" not in result:
    sys.exit("This has changed.")
PYTHON
