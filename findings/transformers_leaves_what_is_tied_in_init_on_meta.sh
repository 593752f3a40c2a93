#!/usr/bin/env bash
# A weight that a model of one's own ties in `__init__`, and that a checkpoint lacks, stays on the meta device.
#
# Packages: transformers 5.24.0, torch 2.13.0.
# Expected: the weight is reported as missing and drawn anew, as it is where `post_init` alone ties it.
# Seen: nothing is reported, and the weight has no values. The tied name is marked as initialised, the mark is on the
#     shared tensor, and models from outside transformers drop marked names from the missing ones.
# Why it matters: an incomplete checkpoint loads without a word, and the model fails or computes nothing later.
# How to live with it: declare `_tied_weights_keys`, leave the modules apart in `__init__`, and let `post_init` tie.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0

venv/bin/python - <<'PYTHON'
import sys

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


class ToyConfig(PreTrainedConfig):
    model_type = "toy"
    tie_word_embeddings: bool = True


class TiedLater(PreTrainedModel):
    config_class = ToyConfig
    _tied_weights_keys = {"second.weight": "first.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.first = nn.Linear(8, 8, bias=False)
        self.second = nn.Linear(8, 8, bias=False)
        self.other = nn.Linear(2, 2, bias=False)
        self.tie()
        self.post_init()

    def tie(self):
        pass

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 0.5)


class TiedInInit(TiedLater):
    def tie(self):
        self.second.weight = self.first.weight


seen = {}
for model_class in (TiedLater, TiedInInit):
    model_class(ToyConfig()).save_pretrained("checkpoint")
    weights = load_file("checkpoint/model.safetensors")
    del weights["first.weight"]
    save_file(weights, "checkpoint/model.safetensors", metadata={"format": "pt"})
    model, report = model_class.from_pretrained("checkpoint", output_loading_info=True)
    seen[model_class.__name__] = (sorted(report["missing_keys"]), model.first.weight.device.type)
    print(f"{model_class.__name__}: missing {report['missing_keys'] or 'nothing'}, on {model.first.weight.device}")
if seen != {"TiedLater": (["first.weight", "second.weight"], "cpu"), "TiedInInit": ([], "meta")}:
    sys.exit("This has changed.")
PYTHON
