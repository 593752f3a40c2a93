#!/usr/bin/env bash
# The caption tokenizer drops letters outside the first Unicode plane, and Roman numerals of one letter.
#
# Packages: pycocoevalcap 1.2 (with the tokenizer of Stanford CoreNLP 3.4.1), Java.
# Expected: a letter that the tokenizer does not know stays a token, as "✓" does.
# Seen: "𐍈" and "Ⅻ" vanish from captions and references. Only a warning of Java names the first untokenizable one.
# Why it matters: captions that differ in such letters alone get full marks from every metric.
# How to live with it: spell such letters out before scoring.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pycocoevalcap==1.2 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import sys

from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

texts = ["sign ✓ ahead", "sign 𐍈 ahead", "sign Ⅻ ahead"]
tokens = PTBTokenizer().tokenize({text: [{"caption": text}] for text in texts})
for text in texts:
    print(f"{text!r} -> {tokens[text][0]!r}")
if [tokens[text][0] for text in texts] != ["sign ✓ ahead", "sign ahead", "sign ahead"]:
    sys.exit("This has changed.")
PYTHON
