"""H-MBAs on vision-language models that are as small as vLLM's attention on CPUs lets them be."""

from pathlib import Path

import torch
from tiny_engines import Request
from transformers import AutoModelForImageTextToText

from hmba_hf import HMBAVLMProcessor
from tiny_hmba_vlm import model_on
from tiny_vlm_bases import TinyVLM, pieces_of

OF_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}

# Of processors that write times behind their clips, here behind what closes a picture in the base's chats.
TIME_FORMATS = {"qwen2_5_vl": " at {seconds} s. "}


def save_model_on(base: str, folder: Path) -> None:
    """Write a model on a base of `BASES` of tests/tiny_vlm_bases.py, and its processor."""
    config, processor = pieces_of(base)
    text = config.text_config.to_dict() | OF_TEXT
    if hasattr(config.vision_config, "out_hidden_size"):
        config.vision_config.out_hidden_size = OF_TEXT["hidden_size"]
        text["rope_parameters"] = text["rope_parameters"] | {"mrope_section": [4, 6, 6]}
    config.text_config = type(config.text_config)(**text)
    torch.manual_seed(0)
    vlm = AutoModelForImageTextToText.from_config(config)
    for weight in vlm.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model_on(TinyVLM(base, vlm.eval(), processor)).save_pretrained(folder)
    HMBAVLMProcessor(processor, time_format=TIME_FORMATS.get(base)).save_pretrained(folder)


def for_engine(processor: HMBAVLMProcessor, request: Request) -> dict:
    """Return a request with its prompt in the words of a base."""
    content = [{"type": "video", "video": video} for video in request.videos]
    content.append({"type": "text", "text": request.text})
    chat = [{"role": "user", "content": content}]
    return request.for_engine() | {"prompt": processor.apply_chat_template(chat, add_generation_prompt=True)}
