#!/usr/bin/env bash
# The padding side set on a tokenizer is not saved with it.
#
# Package: transformers 5.24.0.
# Expected: `tokenizer.padding_side = "left"` is the usual way to set it, and `save_pretrained` saves what was set, as
#     it does for `model_max_length`.
# Seen: the saved tokenizer pads at the right. A side given as an argument of the constructor is saved.
# Why it matters: a decoder that generates in batches continues from padding, and only its answers get worse.
# How to live with it: give `padding_side` to `from_pretrained` or the constructor.
# Related: https://github.com/huggingface/transformers/issues/20395, closed, is about other attributes.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0

venv/bin/python - <<'PYTHON'
import sys

from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast


def new_tokenizer(**options):
    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", pad_token="?", **options)


given = new_tokenizer(padding_side="left")
given.save_pretrained("given")
assigned = new_tokenizer()
assigned.padding_side = "left"
assigned.model_max_length = 7
assigned.save_pretrained("assigned")

given = AutoTokenizer.from_pretrained("given")
assigned = AutoTokenizer.from_pretrained("assigned")
print(f"side given to the constructor: {given.padding_side} after loading")
print(f"side assigned: {assigned.padding_side} after loading; length assigned: {assigned.model_max_length}")
if (given.padding_side, assigned.padding_side, assigned.model_max_length) != ("left", "right", 7):
    sys.exit("This has changed.")
PYTHON
