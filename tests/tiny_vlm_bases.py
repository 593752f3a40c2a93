"""Tiny random vision-language models of transformers, each with its own processor, built offline.

`tiny_vlm(name)` builds one of `BASES`, and `save_vlm(name, folder)` saves one as its publisher would.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from tiny_vlm_parts import VOCABULARY_SIZE, build_processor, picture_processor, tokenizer_with

PIECES = tuple[PreTrainedConfig, ProcessorMixin]
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 102}


@dataclass
class TinyVLM:
    """A tiny base: its model, its processor, and the size of its test pictures."""

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin
    picture_size: tuple[int, int] = field(default=(40, 24))  # width, height

    def picture(self, shade: int = 0) -> Image.Image:
        """Draw a picture; another shade gives another one."""
        return noisy_picture(self.picture_size, shade)

    def inputs(self, question: str = "What?", shade: int = 0) -> dict[str, torch.Tensor]:
        """Ask about one picture, in the base's own words."""
        blocks = [{"type": "image"}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": blocks}]
        prompt = self.processor.apply_chat_template(chat, add_generation_prompt=True)
        encoded = self.processor(text=[prompt], images=[[self.picture(shade)]], return_tensors="pt")
        return dict(encoded)


def noisy_picture(size: tuple[int, int], shade: int) -> Image.Image:
    """Draw pixels at random, of a generator seeded by the shade."""
    generator = torch.Generator().manual_seed(shade)
    pixels = torch.randint(256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


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


def qwen_tokens() -> tuple[Any, dict[str, int]]:
    """Build a tokenizer with Qwen's tokens around pictures, and name their ids."""
    names = {
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
    }
    tokenizer = tokenizer_with(*names.values())
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    return tokenizer, ids


def qwen_pictures(model_type: str):
    """Build Qwen's image processor for patches of 8 px of which 2 x 2 are merged."""
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    return picture_processor(model_type, patch_size=8, merge_size=2, temporal_patch_size=2, size=size)


QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}


def qwen2_5_vl() -> PIECES:
    tokenizer, ids = qwen_tokens()
    config = CONFIG_MAPPING["qwen2_5_vl"](
        vision_config=QWEN_TOWER | {"window_size": 32, "fullatt_block_indexes": [1]},
        text_config=text_values(rope_parameters={"rope_type": "default", "mrope_section": [2, 1, 1]}),
        **ids,
    )
    pictures = qwen_pictures("qwen2_5_vl")
    videos = "Qwen2VLVideoProcessor"
    return config, build_processor("Qwen2_5_VLProcessor", pictures, tokenizer, QWEN_PICTURE, videos)


def qwen3_vl() -> PIECES:
    tokenizer, ids = qwen_tokens()
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    config = CONFIG_MAPPING["qwen3_vl"](
        vision_config=QWEN_TOWER | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        text_config=text_values(rope_parameters=rope),
        **ids,
    )
    return config, build_processor("Qwen3VLProcessor", qwen_pictures("qwen3_vl"), tokenizer, QWEN_PICTURE)


def smolvlm_like(model_type: str, kind: str, tokenizer: Any) -> PIECES:
    """Build a base of the kind that gives each picture 4 tokens, and crops a large one."""
    config = CONFIG_MAPPING[model_type](
        vision_config=tower_values(),
        text_config={"model_type": "llama"} | text_values(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=SPECIAL_IDS["pad_token_id"],
    )
    pictures = picture_processor(
        model_type, size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    return config, build_processor(kind, pictures, tokenizer, "<image>", image_seq_len=4)


def smolvlm() -> PIECES:
    tokenizer = tokenizer_with("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    return smolvlm_like("smolvlm", "SmolVLMProcessor", tokenizer)


def internvl() -> PIECES:
    tokenizer = tokenizer_with(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    config = CONFIG_MAPPING["internvl"](
        vision_config=tower_values(image_size=[32, 32], patch_size=[8, 8]),
        text_config={"model_type": "qwen2"} | text_values(),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    pictures = picture_processor("internvl", size={"height": 32, "width": 32}, max_patches=1)
    processor = build_processor("InternVLProcessor", pictures, tokenizer, "<IMG_CONTEXT>", image_seq_length=4)
    return config, processor


BASES: dict[str, Callable[[], PIECES]] = {base.__name__: base for base in (qwen2_5_vl, qwen3_vl, smolvlm, internvl)}


def tiny_vlm(name: str, seed: int = 0) -> TinyVLM:
    """Build a base of `BASES` with seeded random weights, in evaluation mode."""
    config, processor = BASES[name]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    return TinyVLM(name, model.eval(), processor)


def save_vlm(name: str, folder: Path | str) -> str:
    """Save a base of `BASES` with its processor, as a published one is, and return the folder."""
    vlm = tiny_vlm(name)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return str(folder)
