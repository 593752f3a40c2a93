"""Parts of tiny vision-language models: a tokenizer with a base's own tokens, a chat template, processors offline."""

import importlib
import sys
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import transformers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.image_processing_backends import PilBackend
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_num2words_available, is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

from tiny_processors import tiny_tokenizer

VOCABULARY_SIZE = 192  # the characters, Llama's special tokens, and room for those of a base
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 102}
PIECES = tuple[PreTrainedConfig, ProcessorMixin]
TEMPLATE = """\
{%- for message in messages -%}
    {{- '<im_start>' ~ message['role'] ~ '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for block in message['content'] -%}
            {%- if block['type'] == 'image' -%}
                {{- 'PICTURE' -}}
            {%- else -%}
                {{- block['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<im_end>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<im_start>assistant\\n' -}}
{%- endif -%}
"""


def chat_template(placeholder: str) -> str:
    """Write a template of texts and pictures, in which each picture is the placeholder of a base."""
    return TEMPLATE.replace("PICTURE", placeholder)


def tokenizer_with(*tokens: str, **named: str) -> PreTrainedTokenizerFast:
    """Build the tokenizer of characters with more special tokens; `image_token="<image>"` also names one."""
    backend = tiny_tokenizer().backend_tokenizer
    backend.add_special_tokens([*tokens, *named.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<video>", "<im_start>", "<im_end>", *tokens],
        extra_special_tokens=named,
        model_max_length=4096,
    )


class AbsentVideoProcessor(VideoProcessorMixin, PilBackend):
    """Stands for a base's own video processor, which transformers builds only with torchvision."""

    model_input_names = ["pixel_values_videos"]
    merge_size = 2
    temporal_patch_size = 2
    num_frames = 4
    fps = 1

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __call__(self, *args, **kwargs):
        raise ImportError(f"{self.kind} needs torchvision")

    def to_dict(self) -> dict[str, str]:
        """Give what a saved processor says of it."""
        return {"video_processor_type": self.kind}


@contextmanager
def without_optional_packages():
    """Let transformers build processors of pictures where packages are missing that only videos need."""
    check = ProcessorMixin.check_argument_for_proper_class

    def check_others(self, name, part):
        return None if name == "video_processor" else check(self, name, part)

    with ExitStack() as stack:
        if not is_torchvision_available():
            stack.enter_context(mock.patch.object(ProcessorMixin, "check_argument_for_proper_class", check_others))
        if not is_num2words_available():
            smolvlm = importlib.import_module("transformers.models.smolvlm.processing_smolvlm")
            stack.enter_context(mock.patch.object(smolvlm, "num2words", str))
        yield


def picture_processor(model_type: str, **options):
    """Build the base's own image processor, in the backend that needs no torchvision."""
    return getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[model_type]["pil"])(**options)


def pixtral_processor() -> type[ProcessorMixin]:
    """Import Pixtral's processor, whose module takes from one that needs torchvision what the PIL backend has, too."""
    if is_torchvision_available():
        return transformers.PixtralProcessor
    package = "transformers.models.pixtral"
    pil = importlib.import_module(f"{package}.image_processing_pil_pixtral")
    with mock.patch.dict(sys.modules, {f"{package}.image_processing_pixtral": pil}):
        return importlib.import_module(f"{package}.processing_pixtral").PixtralProcessor


def build_processor(kind: str, image_processor, tokenizer, placeholder: str, videos: str = "", **options):
    """Build the processor class of transformers of that name; `videos` names the class for videos, if another's."""
    processor_class = pixtral_processor() if kind == "PixtralProcessor" else getattr(transformers, kind)
    if "video_processor" in processor_class.get_attributes():
        options["video_processor"] = AbsentVideoProcessor(videos or kind.replace("Processor", "VideoProcessor"))
    options["chat_template"] = chat_template(placeholder)
    with without_optional_packages():
        return processor_class(image_processor=image_processor, tokenizer=tokenizer, **options)


def text_values(**values: Any) -> dict[str, Any]:
    """Give the sizes of a tiny language model."""
    sizes = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
    }
    return sizes | SPECIAL_IDS | values


def tower_values(**values: Any) -> dict[str, Any]:
    """Give the sizes of a tiny vision tower with 4 x 4 patches of 8 px."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    return sizes | values
