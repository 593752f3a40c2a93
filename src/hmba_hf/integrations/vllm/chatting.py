"""Chats with videos for an H-MBA on a vision-language model, whose base's chat template shows pictures."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from ...installation import missing_package
from .mending import replace_once

try:
    from vllm.renderers import hf as renderers
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing

# Before a chat template, this makes a picture of each video.
_VIDEOS_AS_PICTURES = """\
{%- set shown = namespace(messages=[], blocks=[]) -%}
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- if content is defined and content is not none and content is not string -%}
        {%- set shown.blocks = [] -%}
        {%- for block in message['content'] -%}
            {%- if block['type'] == 'video' -%}
                {%- set block = {'type': 'image'} -%}
            {%- endif -%}
            {%- set shown.blocks = shown.blocks + [block] -%}
        {%- endfor -%}
        {%- set message = dict(message, content=shown.blocks) -%}
    {%- endif -%}
    {%- set shown.messages = shown.messages + [message] -%}
{%- endfor -%}
{%- set messages = shown.messages -%}
"""


def show_videos_as_pictures() -> None:
    """Let vLLM write the videos of a chat as an H-MBA on a vision-language model wants them; twice changes nothing.

    vLLM renders the base's own template, which would leave videos out or write the base's token for them. It has no
    way for a model to say which template is meant.
    """
    replace_once(renderers, "resolve_chat_template", _for_clips)


def _for_clips(resolve: Callable[..., str | None]) -> Callable[..., str | None]:
    @wraps(resolve)
    def resolve_for_clips(*arguments: Any, model_config: Any, **options: Any) -> str | None:
        template = resolve(*arguments, model_config=model_config, **options)
        if not isinstance(template, str) or model_config.hf_config.model_type != "hmba_vlm":
            return template
        return _VIDEOS_AS_PICTURES + template

    return resolve_for_clips


__all__ = ["show_videos_as_pictures"]
