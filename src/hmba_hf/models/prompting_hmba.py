"""The text of H-MBA's prompts: chat templates that accept videos, and the time of a frame."""

import json
from typing import Any

try:
    from jinja2 import TemplateError
except ImportError:  # no chat template is rendered then
    TemplateError = ValueError  # type: ignore[assignment,misc]  # in its stead

# This turns content blocks into plain text, so that any chat template for strings alone can follow. Checkpoints hold
# these templates: a changed word would make two versions of one.
_FLATTEN_BLOCKS = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- if content is defined and content is not none and content is not string -%}
        {%- set content -%}
            {%- for block in message['content'] -%}
                {%- if block['type'] in ['video', 'image'] -%}
                    {{- VIDEO_TOKEN -}}
                {%- elif block['type'] == 'text' -%}
                    {{- block['text'] -}}
                {%- else -%}
                    {{- raise_exception('expected a block of type video, image or text, got ' ~ block['type']) -}}
                {%- endif -%}
            {%- endfor -%}
        {%- endset -%}
        {%- set message = dict(message, content=content) -%}
    {%- endif -%}
    {%- set flat.messages = flat.messages + [message] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""

# Some templates read lists of blocks alone; this makes one block of each text for them.
_TEXTS_TO_BLOCKS = """\
{%- set flat.messages = [] -%}
{%- for message in messages -%}
    {%- if message['content'] is string -%}
        {%- set message = dict(message, content=[{'type': 'text', 'text': message['content']}]) -%}
    {%- endif -%}
    {%- set flat.messages = flat.messages + [message] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""

_VICUNA = """\
{%- set system = "A chat between a curious user and an artificial intelligence assistant. \
The assistant gives helpful, detailed, and polite answers to the user's questions." -%}
{%- set turns = messages -%}
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{%- if system -%}
    {{- system ~ ' ' -}}
{%- endif -%}
{%- for message in turns -%}
    {%- if message['role'] == 'user' -%}
        {{- 'USER: ' ~ message['content'] ~ ' ' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- 'ASSISTANT: ' -}}
        {%- generation -%}
            {{- message['content'] ~ eos_token -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception('expected the role user or assistant, got ' ~ message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'ASSISTANT:' -}}
{%- endif -%}
"""

_SECONDS = "{seconds}"


def default_chat_templates(tokenizer: Any, video_token: str) -> str | dict[str, str]:
    """Return the tokenizer's own chat templates, extended to accept videos, or vicuna v1.1 if it has none."""
    own = getattr(tokenizer, "chat_template", None) or _VICUNA
    if isinstance(own, dict):
        return {name: _accept_videos(tokenizer, template, video_token) for name, template in own.items()}
    return _accept_videos(tokenizer, own, video_token)


def _accept_videos(tokenizer: Any, template: str, video_token: str) -> str:
    flatten = _FLATTEN_BLOCKS.replace("VIDEO_TOKEN", json.dumps(video_token))
    if template.startswith(flatten):
        return template
    of_texts = flatten + template
    of_blocks = flatten + _TEXTS_TO_BLOCKS + template
    if not _shows_video(tokenizer, of_texts, video_token) and _shows_video(tokenizer, of_blocks, video_token):
        return of_blocks
    return of_texts


def _shows_video(tokenizer: Any, template: str, video_token: str) -> bool:
    """Return whether a chat template writes the video token of a user's turn."""
    if not hasattr(tokenizer, "apply_chat_template"):
        return True
    turn = {"role": "user", "content": [{"type": "video"}]}
    try:
        text = tokenizer.apply_chat_template([turn], chat_template=template, tokenize=False)
    except TemplateError:  # it wants more than one turn, or tools
        return False
    return video_token in text


def text_behind_picture(tokenizer: Any, template: Any, token: str) -> str:
    """Return what a chat template writes between the token of a picture and the words of a user behind it.

    Args:
        tokenizer: renders the template.
        template: of chats with pictures; `None` writes nothing.
        token: stands for a picture.
    """
    if isinstance(template, dict):
        template = template.get("default")
    if template is None:
        return ""
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _SECONDS}]}
    try:
        text = tokenizer.apply_chat_template([turn], chat_template=template, tokenize=False)
    except TemplateError:  # it wants more than one turn, or tools
        return ""
    _, _, behind = text.partition(token)
    between, _, _ = behind.rpartition(_SECONDS)
    return between


def check_time_format(time_format: Any) -> None:
    """Raise a `ValueError` unless it is `None` or a text with one `{seconds}`."""
    if time_format is not None and (not isinstance(time_format, str) or time_format.count(_SECONDS) != 1):
        raise ValueError(f"time_format must be a text with one {_SECONDS}, or None, got {time_format!r}")


def write_time(metadata: Any, time_format: str) -> str:
    """Write the time of the last frame of a clip; empty if it is unknown."""
    if metadata.current_time is None:
        return ""
    seconds = round(metadata.current_time, 1) + 0.0  # turns -0.0 into 0.0
    return time_format.replace(_SECONDS, f"{seconds:.1f}")


__all__ = ["check_time_format", "default_chat_templates", "text_behind_picture", "write_time"]
