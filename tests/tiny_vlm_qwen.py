"""Tiny bases whose pictures come as rows of patches with a grid, as Qwen's do: their configurations and processors."""

from typing import Any

from transformers import CONFIG_MAPPING

from tiny_vlm_parts import PIECES, build_processor, picture_processor, text_values, tokenizer_with, tower_values

QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1]}
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


def qwen2_5_vl() -> PIECES:
    tokenizer, ids = qwen_tokens()
    config = CONFIG_MAPPING["qwen2_5_vl"](
        vision_config=QWEN_TOWER | {"window_size": 32, "fullatt_block_indexes": [1]},
        text_config=text_values(rope_parameters=MROPE),
        **ids,
    )
    pictures = qwen_pictures("qwen2_5_vl")
    videos = "Qwen2VLVideoProcessor"
    return config, build_processor("Qwen2_5_VLProcessor", pictures, tokenizer, QWEN_PICTURE, videos)


def qwen3_vl() -> PIECES:
    tokenizer, ids = qwen_tokens()
    rope = MROPE | {"mrope_interleaved": True}
    config = CONFIG_MAPPING["qwen3_vl"](
        vision_config=QWEN_TOWER | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        text_config=text_values(rope_parameters=rope),
        **ids,
    )
    return config, build_processor("Qwen3VLProcessor", qwen_pictures("qwen3_vl"), tokenizer, QWEN_PICTURE)


def qwen3_5() -> PIECES:
    tokenizer, ids = qwen_tokens()
    rope = {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "partial_rotary_factor": 1.0,
    }
    linear_attention = {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    config = CONFIG_MAPPING["qwen3_5"](
        vision_config=QWEN_TOWER | {"num_position_embeddings": 64},
        text_config=text_values(rope_parameters=rope, **linear_attention),
        **ids,
    )
    pictures = qwen_pictures("qwen3_5")
    return config, build_processor("Qwen3VLProcessor", pictures, tokenizer, QWEN_PICTURE)


def cosmos3_edge() -> PIECES:
    tokenizer, ids = qwen_tokens()
    tower = tower_values(num_patches=64, spatial_merge_size=2)
    del tower["image_size"]
    config = CONFIG_MAPPING["cosmos3_edge"](
        vision_config=tower,
        text_config=text_values(rope_parameters=MROPE),
        projector_hidden_size=32,
        **ids,
    )
    pictures = picture_processor(
        "cosmos3_edge", patch_size=8, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    )
    return config, build_processor("Cosmos3EdgeProcessor", pictures, tokenizer, QWEN_PICTURE)


def cosmos3_omni() -> PIECES:
    tokenizer, ids = qwen_tokens()
    rope = MROPE | {"mrope_interleaved": True}
    config = CONFIG_MAPPING["cosmos3_omni"](
        vision_config=QWEN_TOWER | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        text_config=text_values(rope_parameters=rope),
        **ids,
    )
    pictures = qwen_pictures("cosmos3_omni")
    return config, build_processor("Qwen3VLProcessor", pictures, tokenizer, QWEN_PICTURE)


def lfm3_vl() -> PIECES:
    tokenizer, ids = qwen_tokens()
    tower = tower_values(num_key_value_heads=2, layer_types=["conv", "full_attention"])
    del tower["image_size"]
    config = CONFIG_MAPPING["lfm3_vl"](
        vision_config=tower,
        text_config={"model_type": "lfm3"} | text_values(layer_types=["conv", "full_attention"], sliding_window=16),
        projector_hidden_size=32,
        **ids,
    )
    pictures = qwen_pictures("lfm3_vl")
    videos = "Qwen3VLVideoProcessor"
    return config, build_processor("Lfm3VlProcessor", pictures, tokenizer, QWEN_PICTURE, videos)


def video_llama_3() -> PIECES:
    tokenizer, ids = qwen_tokens()
    tower = tower_values()
    del tower["image_size"]
    config = CONFIG_MAPPING["video_llama_3"](
        vision_config=tower,
        text_config={"model_type": "qwen2"} | text_values(),
        image_token_id=ids["image_token_id"],
        video_token_id=ids["video_token_id"],
    )
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    pictures = picture_processor("video_llama_3", patch_size=8, merge_size=2, size=size)
    return config, build_processor("VideoLlama3Processor", pictures, tokenizer, "<|image_pad|>")


def glm46v() -> PIECES:
    names = {
        "image_token": "<|image|>",
        "video_token": "<|video|>",
        "image_start_token": "<|begin_of_image|>",
        "image_end_token": "<|end_of_image|>",
        "video_start_token": "<|begin_of_video|>",
        "video_end_token": "<|end_of_video|>",
    }
    tokenizer = tokenizer_with(*names.values())
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "out_hidden_size": 32,
    }
    config = CONFIG_MAPPING["glm46v"](
        vision_config={"model_type": "glm4v_vision"} | tower,
        text_config={"model_type": "glm4v_text"} | text_values(rope_parameters=MROPE),
        **{f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    pictures = picture_processor(
        "glm46v", patch_size=8, merge_size=2, size={"shortest_edge": 2 * 16 * 16, "longest_edge": 2 * 64 * 64}
    )
    processor = build_processor("Glm46VProcessor", pictures, tokenizer, "<|begin_of_image|><|image|><|end_of_image|>")
    return config, processor
