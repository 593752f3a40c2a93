#!/usr/bin/env bash
# A processor cannot be loaded with return_unused_kwargs.
#
# Packages: transformers 5.24.0, torch 2.13.0, pillow 12.2.0.
# Expected: `ProcessorMixin.from_args_and_dict` reads `return_unused_kwargs` and returns the processor and the rest, as
#     image processors and configurations do.
# Seen: `from_pretrained` hands the option to the parts first. The image processor comes back as a tuple, and
#     AttributeError follows.
# Why it matters: code that reads its own options off the call works for every class but processors.
# How to live with it: sort the options before the call.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 pillow==12.2.0

venv/bin/python - <<'PYTHON'
import sys

from tokenizers import Tokenizer, models
from transformers import CLIPProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
CLIPProcessor(image_processor=CLIPImageProcessorPil(), tokenizer=tokenizer).save_pretrained("processor")

_, rest = CLIPImageProcessorPil.from_pretrained("processor", return_unused_kwargs=True, mine=1)
print(f"image processor: the rest is {rest}")
try:
    _, rest = CLIPProcessor.from_pretrained("processor", return_unused_kwargs=True, mine=1)
    result = f"the rest is {rest}"
except AttributeError as error:
    result = f"AttributeError: {error}"
print(f"processor: {result}")
if "'tuple' object has no attribute" not in result:
    sys.exit("This has changed.")
PYTHON
