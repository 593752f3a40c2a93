#!/usr/bin/env bash
# One call with class labels of 8 bits turns a model of transformers into one of many labels, also in what it saves.
#
# Package: transformers 5.24.0 with torch 2.13.0.
# Expected: labels of three classes as `uint8`, as data sets of few classes store them, are refused or taken for classes,
#     and the next call with `int64` is as if nothing had been.
# Seen: whatever is neither int32 nor int64 counts as many labels a row. The call fails by the shape, after it has written
#     `problem_type` into the config: all later calls with right labels fail too, and `save_pretrained` keeps it.
# Why it matters: who catches the error and mends the labels meets the same one again, in the next process as well.
# How to live with it: set `problem_type="single_label_classification"` when the model is made, and pass int64.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.24.0 numpy==2.4.6

cat > labels.py <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification

small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
model = BertForSequenceClassification(BertConfig(**small, num_labels=3))
texts = torch.ones(3, 4, dtype=torch.long)
outcomes = []
for dtype in (torch.uint8, torch.int64):
    try:
        model(texts, labels=torch.tensor([0, 1, 2], dtype=dtype))
        outcomes.append(f"{dtype}: a loss")
    except ValueError as error:
        outcomes.append(f"{dtype}: {type(error).__name__}")
model.save_pretrained("saved")
saved = json.loads(Path("saved/config.json").read_text())["problem_type"]
print(f"transformers {transformers.__version__}, torch {torch.__version__}: {outcomes}, saved as {saved}")
if outcomes != ["torch.uint8: ValueError", "torch.int64: ValueError"] or saved != "multi_label_classification":
    sys.exit("This has changed.")
PYTHON
venv/bin/python labels.py 2> log || { cat log; exit 1; }
