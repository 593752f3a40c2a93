#!/usr/bin/env bash
# In a model of someone's own code, `_init_weights` never sees a module that holds other modules alone.
#
# Packages: transformers 5.24.0, torch 2.13.0.
# Expected: transformers' own models are handed every module, the ones inside first, so a rule of `_init_weights` for
#     a block can draw the layers inside it anew.
# Seen: the same rule in a class outside of transformers is never called for such a block. It counts as initialised,
#     since all of its own parameters, none, are.
# Why it matters: scaled initialisations of whole blocks have no effect and raise no error, and a model of transformers
#     inside one's own class loads with such a rule left out.
# How to live with it: give the layer a class of its own and let the rule look for that.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0

venv/bin/python - <<'PYTHON'
import sys

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


class TwoConfig(PreTrainedConfig):
    model_type = "two"


class Pair(nn.Module):
    """Holds layers, and no parameter of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)


class TwoModel(PreTrainedModel):
    config_class = TwoConfig

    def __init__(self, config):
        super().__init__(config)
        self.pair = Pair()
        self.post_init()

    def _init_weights(self, module):
        seen.append(type(module).__name__)


def classes_seen(is_custom):
    seen.clear()
    TwoModel.is_custom_code = lambda self: is_custom
    TwoModel(TwoConfig())
    return sorted(set(seen))


seen = []
is_custom = TwoModel(TwoConfig()).is_custom_code()
results = {"as it is": classes_seen(is_custom), "taken for one of transformers' own": classes_seen(False)}
print(f"counts as someone's own code: {is_custom}")
for name, classes in results.items():
    print(f"{name}: _init_weights saw {classes}")
if is_custom is not True or results["as it is"] != ["Linear"] or "Pair" not in results["taken for one of transformers' own"]:
    sys.exit("This has changed.")
PYTHON
