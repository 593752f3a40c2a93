#!/usr/bin/env bash
# Trainer.get_optimizer_group finds the group of the first parameter alone.
#
# Packages: transformers 5.24.0, torch 2.13.0, accelerate 1.15.0.
# Expected: `get_optimizer_group(param)` is documented to return the group of a parameter.
# Seen: it asks `param in group["params"]`, which compares tensors by value. Any later parameter of another shape
#     raises RuntimeError "The size of tensor a ... must match".
# Why it matters: learning rates and weight decay of a parameter cannot be looked up.
# How to live with it: compare with `is`, over `trainer.optimizer.param_groups`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0

venv/bin/python - <<'PYTHON'
import sys

from torch import nn
from transformers import Trainer, TrainingArguments

model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
trainer = Trainer(model=model, args=TrainingArguments(output_dir="run", use_cpu=True, report_to=[]))
trainer.create_optimizer()
results = []
for layer in model:
    try:
        trainer.get_optimizer_group(layer.weight)
        results.append("found")
    except RuntimeError as error:
        results.append(f"RuntimeError: {error}")
print(f"first weight: {results[0]}; second weight: {results[1]}")
if results[0] != "found" or "must match the size" not in results[1]:
    sys.exit("This has changed.")
PYTHON
