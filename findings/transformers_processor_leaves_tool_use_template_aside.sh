#!/usr/bin/env bash
# A processor formats a conversation with tools by the template "default", its tokenizer by "tool_use".
#
# Package: transformers 5.24.0.
# Expected: the processor's `apply_chat_template` is documented as similar to the tokenizer's. With `tools` the latter
#     takes the template named "tool_use" where there is one.
# Seen: the processor takes "default" whatever `tools` is. If "default" knows no tools, they vanish in silence.
# Why it matters: the model is never told which tools it has, and simply calls none.
# How to live with it: pass `chat_template="tool_use"` along with `tools`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 jinja2==3.1.6

venv/bin/python - <<'PYTHON'
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, ProcessorMixin

TEMPLATES = {"default": "no tools", "tool_use": "{{ tools | length }} tool"}


class TextProcessor(ProcessorMixin):
    def __init__(self, tokenizer, chat_template=None):
        super().__init__(tokenizer, chat_template=chat_template)


def weather(city: str):
    """Tell the weather.

    Args:
        city: Where.
    """


words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", chat_template=TEMPLATES)
processor = TextProcessor(tokenizer, chat_template=TEMPLATES)
call = {"conversation": [{"role": "user", "content": "Rain?"}], "tools": [weather], "tokenize": False}
by_tokenizer = tokenizer.apply_chat_template(**call)
by_processor = processor.apply_chat_template(**call)
named = processor.apply_chat_template(**call, chat_template="tool_use")
print(f"tokenizer: {by_tokenizer!r}; processor: {by_processor!r}; processor, template named: {named!r}")
if (by_tokenizer, by_processor, named) != ("1 tool", "no tools", "1 tool"):
    sys.exit("This has changed.")
PYTHON
