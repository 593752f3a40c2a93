"""Chat templates without a generation block, in the forms that published models have."""

# Each turn between marks, a system turn in front of a chat without one, a line break behind each turn.
MARKED_TURNS = """\
{%- if messages[0]['role'] != 'system' -%}
    {{- '[sys]Be brief.[end]\\n' -}}
{%- endif -%}
{%- for turn in messages -%}
    {{- '[' ~ turn['role'] ~ ']\\n' ~ turn['content'] ~ '[end]\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '[assistant]\\n' -}}
{%- endif -%}
"""

# Questions in brackets, a blank before each answer, no other prompt for it.
BRACKETED_QUESTIONS = """\
{{- bos_token -}}
{%- for turn in messages -%}
    {%- if turn['role'] == 'user' -%}
        {{- '(Q) ' ~ turn['content'] | trim ~ ' (/Q)' -}}
    {%- else -%}
        {{- ' ' ~ turn['content'] | trim ~ ' ' ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""

# A thought in front of each last answer.
THINKING = """\
{%- for turn in messages -%}
    {{- '<' ~ turn['role'] ~ '>' -}}
    {%- if turn['role'] == 'assistant' and loop.last -%}
        {{- '(thought)' -}}
    {%- endif -%}
    {{- turn['content'] ~ '|' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<assistant>' -}}
{%- endif -%}
"""

# The prompt opens a thought that an answer in a chat does not have.
FORCED_THOUGHT = THINKING.replace("'<assistant>'", "'<assistant>(open'")

# Reads lists of blocks alone, as those of vision-text models do, and knows no block of a video.
BLOCKS_ALONE = """\
{%- for message in messages -%}
    {{- '<' ~ message['role'] ~ '>' -}}
    {%- for block in message['content'] -%}
        {%- if block['type'] == 'text' -%}
            {{- block['text'] -}}
        {%- elif block['type'] == 'image' -%}
            {{- '<image>' -}}
        {%- endif -%}
    {%- endfor -%}
    {{- '|' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<assistant>' -}}
{%- endif -%}
"""
