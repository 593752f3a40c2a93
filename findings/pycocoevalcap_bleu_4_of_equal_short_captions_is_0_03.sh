#!/usr/bin/env bash
# Captions of three words that equal their references get a BLEU-4 of 0.03.
#
# Package: pycocoevalcap 1.2.
# Expected: captions without any 4-gram have no 4-gram precision. sacrebleu 2.6.0, for one, has an effective order.
# Seen: the precision without counts is taken as 1e-15 / 1e-9, and its fourth root is 0.0316. One caption of four
#     words among them, equal as well, brings the score to 1.0.
# Why it matters: short answers that are all right score like wrong ones, and one long answer decides.
# How to live with it: report BLEU-4 of texts that have four words, or a shorter BLEU beside it.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pycocoevalcap==1.2 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import sys

from pycocoevalcap.bleu.bleu import Bleu


def bleu_4(captions):
    """Score captions against themselves."""
    texts = {number: [caption] for number, caption in enumerate(captions)}
    scores, _ = Bleu(4).compute_score(texts, texts, verbose=0)
    return round(scores[3], 4)


short = bleu_4(["a red car", "a blue bus"])
one_longer = bleu_4(["a red car", "a blue bus ahead"])
print(f"BLEU-4 of equal captions: {short} of three words each, {one_longer} with one of four words")
if (short, one_longer) != (0.0316, 1.0):
    sys.exit("This has changed.")
PYTHON
