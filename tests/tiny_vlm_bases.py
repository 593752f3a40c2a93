"""Tiny random vision-language models of transformers, each with its own processor, built offline.

`tiny_vlm(name)` builds one of `BASES`, and `save_vlm(name, folder)` saves one as its publisher would.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch
import transformers
from PIL import Image
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from tiny_vlm_parts import (
    PIECES,
    SPECIAL_IDS,
    VOCABULARY_SIZE,
    build_processor,
    picture_processor,
    text_values,
    tokenizer_with,
    tower_values,
)
from tiny_vlm_pictures import Lfm2VlPictures, NemotronPictures, PerceptionLMPictures
from tiny_vlm_qwen import (
    cosmos3_edge,
    cosmos3_omni,
    glm46v,
    lfm3_vl,
    qwen2_5_vl,
    qwen3_5,
    qwen3_vl,
    video_llama_3,
)


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
        return self.encode([shade], question)

    def pictures(self, *shades: int) -> dict[str, torch.Tensor]:
        """Encode pictures, each for a prompt of its own, and return the inputs about pictures alone."""
        of_pictures = inspect.signature(self.model.base_model.get_image_features).parameters
        return {name: value for name, value in self.encode(shades).items() if name in of_pictures}

    def encode(self, shades: Sequence[int], question: str = "What?") -> dict[str, torch.Tensor]:
        """Ask about each picture in a prompt of its own."""
        blocks = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True)
        options = {}
        if "mm_token_type_ids" in self.processor.model_input_names:
            options["return_mm_token_type_ids"] = True  # Cosmos 3 Edge gives them only if asked
        pictures = [[self.picture(shade)] for shade in shades]
        return dict(self.processor(text=[prompt] * len(shades), images=pictures, return_tensors="pt", **options))


def noisy_picture(size: tuple[int, int], shade: int) -> Image.Image:
    """Draw pixels at random, of a generator seeded by the shade."""
    generator = torch.Generator().manual_seed(shade)
    pixels = torch.randint(256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


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


def idefics3() -> PIECES:
    tokenizer = tokenizer_with("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    return smolvlm_like("idefics3", "Idefics3Processor", tokenizer)


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


def gemma_tokens(**named: str):
    """Build a tokenizer with Gemma's tokens around pictures."""
    return tokenizer_with(
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>", **named
    )


def gemma3() -> PIECES:
    tokenizer = gemma_tokens()
    config = CONFIG_MAPPING["gemma3"](
        vision_config=tower_values(),
        text_config=text_values(layer_types=["sliding_attention", "full_attention"], sliding_window=16),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    pictures = picture_processor("gemma3", size={"height": 32, "width": 32})
    return config, build_processor("Gemma3Processor", pictures, tokenizer, "<start_of_image>", image_seq_length=4)


def paligemma() -> PIECES:
    tokenizer = tokenizer_with(image_token="<image>")
    pictures = picture_processor("paligemma", size={"height": 32, "width": 32})
    pictures.image_seq_length = 16
    processor = build_processor("PaliGemmaProcessor", pictures, tokenizer, "<image>")
    config = CONFIG_MAPPING["paligemma"](
        vision_config=tower_values(vision_use_head=False),
        text_config=text_values(vocab_size=len(tokenizer)),
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
        hidden_size=32,
        vocab_size=len(tokenizer),
    )
    return config, processor


def llava() -> PIECES:
    tokenizer = tokenizer_with(image_token="<image>")
    config = CONFIG_MAPPING["llava"](
        vision_config={"model_type": "clip_vision_model"} | tower_values(projection_dim=32),
        text_config={"model_type": "llama"} | text_values(),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
    )
    size = {"height": 32, "width": 32}
    pictures = picture_processor("llava", size={"shortest_edge": 32}, crop_size=size)
    processor = build_processor(
        "LlavaProcessor",
        pictures,
        tokenizer,
        "<image>",
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return config, processor


def llava_onevision() -> PIECES:
    tokenizer = tokenizer_with(image_token="<image>", video_token="<video>")
    pinpoints = [[32, 32], [32, 64], [64, 32]]
    config = CONFIG_MAPPING["llava_onevision"](
        vision_config={"model_type": "siglip_vision_model"} | tower_values(vision_use_head=False),
        text_config={"model_type": "qwen2"} | text_values(),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=pinpoints,
    )
    pictures = picture_processor("llava_onevision", size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints)
    processor = build_processor(
        "LlavaOnevisionProcessor",
        pictures,
        tokenizer,
        "<image>",
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    return config, processor


def mistral3() -> PIECES:
    tokenizer = tokenizer_with("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = CONFIG_MAPPING["mistral3"](
        vision_config={"model_type": "pixtral"} | tower_values(head_dim=8),
        text_config={"model_type": "mistral"} | text_values(sliding_window=None),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        spatial_merge_size=2,
    )
    pictures = picture_processor("mistral3", size={"longest_edge": 32}, patch_size=8)
    options = {"patch_size": 8, "spatial_merge_size": 2}
    return config, build_processor("PixtralProcessor", pictures, tokenizer, "[IMG]", **options)


def granite4_vision() -> PIECES:
    tokenizer = tokenizer_with(image_token="<image>")
    pinpoints = [[32, 32], [32, 64], [64, 32]]
    config = CONFIG_MAPPING["granite4_vision"](
        vision_config={"model_type": "siglip_vision_model"} | tower_values(hidden_size=64, vision_use_head=False),
        text_config=text_values(),
        qformer_config={"model_type": "blip_2_qformer", "num_hidden_layers": 1, "intermediate_size": 64},
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=pinpoints,
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
        deepstack_layer_map=[[-1, 0]],
        spatial_vision_layer=-2,
        spatial_target_layers=[1],
    )
    pictures = picture_processor(
        "granite4_vision", size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints, crop_size=32
    )
    processor = build_processor(
        "Granite4VisionProcessor",
        pictures,
        tokenizer,
        "<image>",
        patch_size=8,
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
    )
    return config, processor


def gemma4() -> PIECES:
    tokenizer = gemma_tokens(audio_token="<audio>", boa_token="<boa>", eoa_token="<eoa>")
    tower = tower_values(num_key_value_heads=4, head_dim=8, pooling_kernel_size=2, position_embedding_size=64)
    del tower["image_size"]
    pictures = picture_processor("gemma4", patch_size=8, pooling_kernel_size=2, max_soft_tokens=70)
    processor = build_processor(
        "Gemma4Processor",
        pictures,
        tokenizer,
        "<image_soft_token>",
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
    )
    config = CONFIG_MAPPING["gemma4"](
        vision_config=tower,
        text_config=text_values(
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=16,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=VOCABULARY_SIZE,
            global_head_dim=8,
        ),
        audio_config=None,
        image_token_id=tokenizer.image_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        video_token_id=processor.video_token_id,
        audio_token_id=tokenizer.audio_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_index=tokenizer.eoa_token_id,
    )
    return config, processor


def lfm2_vl() -> PIECES:
    tokens = ["<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
    tokenizer = tokenizer_with(*tokens, image_token="<image>")
    tower = tower_values(num_patches=64, vision_use_head=False)
    del tower["image_size"]
    config = CONFIG_MAPPING["lfm2_vl"](
        vision_config={"model_type": "siglip2_vision_model"} | tower,
        text_config={"model_type": "lfm2"} | text_values(layer_types=["conv", "full_attention"]),
        image_token_id=tokenizer.image_token_id,
        projector_hidden_size=32,
    )
    return config, build_processor("Lfm2VlProcessor", Lfm2VlPictures(), tokenizer, "<image>")


def perception_lm() -> PIECES:
    tokenizer = tokenizer_with(image_token="<|image|>", video_token="<|video|>")
    config = CONFIG_MAPPING["perception_lm"](
        # A tower of transformers in the place of one of timm, of which the projector reads only this width.
        vision_config={"model_type": "clip_vision_model", "model_args": {"embed_dim": 32}} | tower_values(),
        text_config={"model_type": "llama"} | text_values(),
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        projector_pooling_ratio=2,
    )
    processor = build_processor(
        "PerceptionLMProcessor", PerceptionLMPictures(), tokenizer, "<|image|>", patch_size=8, pooling_ratio=2
    )
    return config, processor


def nemotron_h_omni() -> PIECES:
    tokenizer = tokenizer_with("<image>", "<so_embedding>", "<so_start>", "<so_end>", "<img>", "</img>")
    language_model = text_values(
        layers_block_type=["linear_attention", "full_attention"],
        ssm_state_size=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=2,
        chunk_size=16,
    )
    del language_model["num_hidden_layers"]
    config = CONFIG_MAPPING["nemotron_h_omni"](
        vision_config={"model_type": "radio"} | tower_values(max_img_size=64, video_temporal_patch_size=2),
        text_config={"model_type": "nemotron_h"} | language_model,
        audio_config=None,
        vision_hidden_size=32,
        projector_hidden_size=32,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        audio_token_id=tokenizer.convert_tokens_to_ids("<so_embedding>"),
    )
    processor = build_processor(
        "NemotronH_Omni_Reasoning_V3Processor",
        NemotronPictures(),
        tokenizer,
        "<image>",
        feature_extractor=transformers.ParakeetFeatureExtractor(),
    )
    return config, processor


BASES: dict[str, Callable[[], PIECES]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "cosmos3_edge": cosmos3_edge,
    "cosmos3_omni": cosmos3_omni,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "internvl": internvl,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "lfm2_vl": lfm2_vl,
    "lfm3_vl": lfm3_vl,
    "llava": llava,
    "llava_onevision": llava_onevision,
    "perception_lm": perception_lm,
    "paligemma": paligemma,
    "mistral3": mistral3,
    "glm46v": glm46v,
    "granite4_vision": granite4_vision,
    "nemotron_h_omni": nemotron_h_omni,
    "video_llama_3": video_llama_3,
}

# The version of transformers from which a base is there whole, without packages that the tests do not need.
SINCE = {"gemma4": 21, "granite4_vision": 20, "lfm3_vl": 23, "nemotron_h_omni": 23, "perception_lm": 20}
# The version of transformers that cannot place the pictures of a base: it takes the side of a patch for their tokens.
BROKEN = {"smolvlm": 20}


def is_there(name: str) -> bool:
    """Return whether the installed transformers has a base of `BASES` whole."""
    major, minor = map(int, transformers.__version__.split(".")[:2])
    return (major, minor) >= (5, SINCE.get(name, 0)) and (major, minor) != (5, BROKEN.get(name))


def pieces_of(name: str) -> PIECES:
    """Return the configuration and the processor of a base of `BASES`.

    Raises:
        SkipTest: if the installed transformers is older than the base, or cannot run it.
    """
    if not is_there(name):
        raise SkipTest(f"transformers {transformers.__version__} does not have {name} whole, as others do")
    return BASES[name]()


def tiny_vlm(name: str, seed: int = 0) -> TinyVLM:
    """Build a base of `BASES` with seeded random weights, in evaluation mode; `pieces_of` may skip the test."""
    config, processor = pieces_of(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
        for weight in model.parameters():
            if weight.ndim > 1:  # some start at zero, and the others so small that pictures hardly count
                torch.nn.init.normal_(weight, std=0.2)
    return TinyVLM(name, model.eval(), processor)


def save_vlm(name: str, folder: Path | str) -> str:
    """Save a base of `BASES` with its processor, as a published one is, and return the folder."""
    vlm = tiny_vlm(name)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return str(folder)
