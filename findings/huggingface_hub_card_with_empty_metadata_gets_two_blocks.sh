#!/usr/bin/env bash
# A model card with an empty block of metadata is written with two blocks.
#
# Package: huggingface_hub 2.4.0.
# Expected: a card that begins with two lines of three hyphens has metadata, which are empty. Adding a licence fills it.
# Seen: the block is taken for text, so that the new block is put before it, and the empty one shows on the page.
# Why it matters: the card gains two rules at its head, and every later tool reads another text than was written.
# How to live with it: remove the empty block before reading the card.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet huggingface_hub==2.4.0

venv/bin/python - <<'PYTHON'
import sys

from huggingface_hub import ModelCard

cards = {}
for name, metadata in {"empty": "", "filled": "tags: [video]\n"}.items():
    card = ModelCard(f"---\n{metadata}---\n# A model\n")
    card.data.license = "mit"
    cards[name] = str(card)
    print(f"{name}: {cards[name]!r}")
if cards["empty"].count("---\n") != 4 or cards["filled"].count("---\n") != 2:
    sys.exit("This has changed.")
PYTHON
