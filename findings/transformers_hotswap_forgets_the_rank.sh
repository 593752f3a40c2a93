#!/usr/bin/env bash
# Swapping in a low-rank adapter of another rank fails after the call that is to prepare for it.
#
# Packages: transformers 5.24.0, peft 0.21.2, torch 2.13.0.
# Expected: the docstring of `load_adapter` has adapters of different ranks swapped in place after
#     `enable_peft_hotswap(target_rank=...)`.
# Seen: RuntimeError about mismatched sizes. The rank is stored as `_prepare_peft_hotswap_kwargs`, which nothing reads.
# Why it matters: only adapters of one rank can be swapped, so that a compiled model must be compiled again.
# How to live with it: call `peft.utils.hotswap.prepare_model_for_compiled_hotswap` and `hotswap_adapter` of PEFT.
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
for folder, rank in (("four", 4), ("other_four", 4), ("eight", 8)):
    model = LlamaForCausalLM.from_pretrained("base")
    get_peft_model(model, LoraConfig(r=rank, target_modules=["q_proj"])).save_pretrained(folder)

results = {}
for second in ("other_four", "eight"):
    model = LlamaForCausalLM.from_pretrained("base")
    model.enable_peft_hotswap(target_rank=8)
    model.load_adapter("four", adapter_name="default")
    try:
        model.load_adapter(second, adapter_name="default")
        results[second] = "swapped"
    except RuntimeError as error:
        results[second] = f"RuntimeError: {error}"
for second, result in results.items():
    print(f"four, then {second}: {result}")
if results["other_four"] != "swapped" or "ignore_mismatched_sizes" not in results["eight"]:
    sys.exit("This has changed.")
PYTHON
