#!/usr/bin/env bash
# Without torchvision no processor takes a video processor, not even one of one's own that needs no torchvision.
#
# Packages: transformers 5.24.0, torch 2.13.0, pillow 13.0.0, no torchvision.
# Expected: `Qwen3VLProcessor(pictures, tokenizer, videos)` takes any `VideoProcessorMixin`, as with torchvision.
# Seen: AttributeError "type object 'VIDEO_PROCESSOR_MAPPING' has no attribute '_extra_content'". The check of the
#     arguments looks up `transformers.VideoProcessorMixin`, which is not exported, and then a dummy's register.
# Why it matters: pictures need no torchvision, yet every processor with a place for videos fails, also for pictures
#     alone, and the error names neither torchvision nor the argument.
# How to live with it: override `check_argument_for_proper_class` for video processors, or install torchvision.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 pillow==13.0.0

venv/bin/python - <<'PYTHON'
import sys

from PIL import Image
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil, Qwen3VLProcessor
from transformers.image_processing_backends import PilBackend
from transformers.video_processing_utils import VideoProcessorMixin

TOKENS = ["?", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]


class PilVideoProcessor(VideoProcessorMixin, PilBackend):
    pass


class CheckingItself(Qwen3VLProcessor):
    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name == "video_processor" and isinstance(argument, VideoProcessorMixin):
            return VideoProcessorMixin
        return super().check_argument_for_proper_class(argument_name, argument)


def build(processor_class):
    """Build a processor of which only the class is in question, and let it read a picture."""
    words = Tokenizer(models.WordLevel({token: number for number, token in enumerate(TOKENS)}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", additional_special_tokens=TOKENS[1:])
    processor = processor_class(Qwen2VLImageProcessorPil(), tokenizer, PilVideoProcessor())
    picture = Image.new("RGB", (56, 56))
    prompt = "<|vision_start|><|image_pad|><|vision_end|>"
    return processor(images=picture, text=prompt, return_tensors="pt")["image_grid_thw"].tolist()


seen = {}
for processor_class in (CheckingItself, Qwen3VLProcessor):
    try:
        seen[processor_class.__name__] = build(processor_class)
    except AttributeError as error:
        seen[processor_class.__name__] = str(error)
    print(f"{processor_class.__name__}: {seen[processor_class.__name__]}")
if seen["CheckingItself"] != [[1, 4, 4]] or "_extra_content" not in seen["Qwen3VLProcessor"]:
    sys.exit("This has changed.")
PYTHON
