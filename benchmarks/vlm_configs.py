"""Tiny configurations of vision-language models of transformers: the defaults of their classes, shrunk by name.

What the names do not tell, such as lists with an entry a layer, stands in `CORRECTIONS`, family by family.
"""

import re
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

VOCABULARY = 320
ORDINARY = 260  # ids below are those of ordinary tokens
# Sizes by the end of a value's name; a default that is smaller stays.
SIZES = {
    r"(^|_)vocab_size(_per_layer_input)?$": VOCABULARY,
    r"^(num_hidden_layers|depth|num_layers|n_layers?|(en|de)coder_layers|layers|.*_num_hidden_layers)$": 2,
    r"(^|_)(num_key_value_heads|num_kv_heads|kv_heads|n_kv_heads)$": 2,
    r"(^|_)(num_attention_heads|num_heads|n_heads?|attention_heads|num_.*_heads)$": 4,
    r"(^|_)(head_dim|(qk_nope|qk_rope)_head_dim)$": 8,
    r"(^|_)(intermediate_size|ffn_dim|mlp_dim|ffn_hidden_size|inner_dim|hidden_dim)$": 64,
    r"(^|_)(hidden_size|d_model|embed_dim|projection_dim|hidden_size_per_layer_input|output_dim|out_dim)$": 32,
    r"^width$": 32,
    r"^(image_size|max_img_size|force_image_size|tile_size)$": 32,
    r"^patch_size$": 8,
    r"^(num_experts|num_local_experts|n_routed_experts|moe_num_experts)$": 4,
    r"^(num_experts_per_tok|top_k_experts|moe_k)$": 2,
    r"^max_position_embeddings$": 512,
    r"lora_rank$": 16,
    r"^(num_position_embeddings|num_patches|position_embedding_size)$": 64,
    r"^sliding_window$": 16,
}
TOKEN = re.compile(r"(_id|_ids|token_index|_token|token_id_list)$")
LEFT_OUT = {"id2label", "label2id", "transformers_version", "architectures", "dtype", "_name_or_path"}

MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
FULL = ["full_attention", "full_attention"]
IMAGE = 300  # an id for bases whose default config has none
SAM = {"image_size": 64, "patch_size": 8, "window_size": 4, "output_channels": 16, "downsample_channels": [16, 32]}
SMALL_VQ = {"base_channels": 32, "channel_multiplier": [1, 1]}
FIRST_LAYER_MERGES = {"image_token_id": IMAGE, "insert_layer_id": 0, "vision_config": {"insert_layer_id": 0}}
BLIP = {"image_token_index": IMAGE, "text_config": {"word_embed_proj_dim": 32}}

CORRECTIONS: dict[str, dict[str, Any]] = {
    "apertus1p5": {
        "image_token_offset": 1000,
        "audio_token_offset": 1064,
        "audio_config": {"hidden_size": 512},
        "vision_config": SMALL_VQ | {"codebook_size": 64, "embed_dim": 16, "latent_channels": 16, "num_res_blocks": 1},
        "text_config": {"vocab_size": 6000},
    },
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "blip-2": BLIP,
    "chameleon": {
        "vocabulary_map": {"<image>": IMAGE} | {f"IMGIMG{letter}Z": ord(letter) for letter in "ABCDEFGHIJ"},
        "vq_config": SMALL_VQ | {"num_embeddings": 10, "resolution": 32, "latent_channels": 16, "embed_dim": 16},
    },
    "cohere_compass": {
        "text_config": {
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {"sliding_attention": PLAIN_ROPE, "full_attention": PLAIN_ROPE},
        }
    },
    "deepseek_ocr2": {
        "vision_config": {"sam_config": SAM, "encoder_config": {"layer_types": FULL}},
        "text_config": {
            "mlp_layer_types": ["dense", "sparse"],
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
        },
    },
    "diffusion_gemma": {
        "text_config": {
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
            "per_layer_config": {1: {"head_dim": 8}},
        }
    },
    "dots3_note": {
        "vision_config": {"per_layer_config": {}, "adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"per_layer_config": {}, "adapter_input_size": 32, "adapter_out_dim": 32},
        "text_config": {"per_layer_config": {}, "layer_types": FULL, "num_key_value_heads": 4, "head_dim": 16},
    },
    "emu3": {
        "vocabulary_map": {"<image>": IMAGE, "<|extra_200|>": 299}
        | {f"<|visual token {number:06d}|>": 200 + number for number in range(16)},
        "vq_config": SMALL_VQ | {"codebook_size": 16},
    },
    "ernie4_5_vl_moe": {
        "text_config": {"rope_parameters": MROPE | {"mrope_section": [1, 1, 2]}, "moe_intermediate_size": [32, 32]}
    },
    "fuyu": {"image_token_id": IMAGE},
    "gemma3n": {"text_config": {"intermediate_size": [64, 64], "activation_sparsity_pattern": [0.0, 0.0]}},
    "gemma4_unified": {
        "vision_config": {"patch_size": 8, "mm_embed_dim": 32, "mm_posemb_size": 64, "output_proj_dims": 32},
        "text_config": {"per_layer_config": {1: {"head_dim": 8}}},
    },
    "glm4v": {"text_config": {"rope_parameters": MROPE}},
    "glm4v_moe": {"text_config": {"rope_parameters": MROPE | {"partial_rotary_factor": 1.0}}},
    "glm5_next": {"text_config": {"num_key_value_heads": 4}},
    "glm_ocr": {"text_config": {"rope_parameters": MROPE}},
    "glmga": {"text_config": {"rope_parameters": MROPE}},
    "hunyuan_vl": {"text_config": {"head_dim": 8, "rope_parameters": MROPE | {"mrope_section": [1, 1, 1, 1]}}},
    "instructblip": BLIP,
    "janus": {"vq_config": SMALL_VQ | {"num_embeddings": 32}},
    "kimi_k25": {
        "vision_config": {"pos_emb_height": 16, "pos_emb_width": 16},
        "text_config": {"num_key_value_heads": 4},
    },
    "llama4": {
        "vision_config": {
            "vision_output_dim": 64,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
            "intermediate_size": 128,
        }
    },
    "llava_next": {"image_grid_pinpoints": [[32, 32]]},
    "llava_next_video": {"image_grid_pinpoints": [[32, 32]]},
    "minicpm_ocr": FIRST_LAYER_MERGES,
    "minicpmv4_6": FIRST_LAYER_MERGES,
    "minicpmv4_7": FIRST_LAYER_MERGES,
    "mistral_large4": {"text_config": {"kv_source_layers": [0, 1], "num_key_value_heads": 4}},
    "molmo2": {
        "adapter_config": {"vision_feature_layer": [0, 1]},
        "vision_config": {"num_position_embeddings": 16, "image_size": [32, 32]},
    },
    "muse_glimmer": {"out_hidden_size": 128},
    "muse_spark": {
        "out_hidden_size": 128,
        "audio_config": {
            "num_hidden_layers": 2,
            "patch_sizes": [4, 4],
            "hidden_sizes": [32, 32],
            "depths": [1, 1],
            "out_hidden_size": 32,
        },
    },
    "paddleocr_vl": {"text_config": {"rope_parameters": MROPE}},
    "qwen2_5_omni_thinker": {
        "text_config": {"rope_parameters": MROPE},
        "vision_start_token_id": 301,
        "vision_end_token_id": 302,
    },
    "qwen2_vl": {"text_config": {"rope_parameters": MROPE}},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 301, "vision_end_token_id": 302},
    "qwen4_exp": {
        "text_config": {
            "layer_types": ["linear_attention", "full_attention"],
            "ple_layer_ids": [],
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 16,
            "indexer_compress_ratio": 4,
        }
    },
    "shieldgemma2": {"mm_tokens_per_image": 4},
    "step3p7": {"text_config": {"sliding_window": 16, "layer_types": FULL}},
    "unlimited_ocr": {
        "vision_config": {"sam_config": SAM, "encoder_config": {"image_size": 16, "patch_size": 8}},
    },
    "vipllava": {"vision_feature_layers": [-1, -2]},
}


def shrunk_config(model_type: str) -> PreTrainedConfig:
    """Build a tiny configuration of a family from the defaults of its class."""
    config_class = CONFIG_MAPPING[model_type]
    values = config_class().to_dict()
    values.pop("model_type")
    shrunk = _shrink(values, ids={})
    return config_class(**_merge(shrunk, CORRECTIONS.get(model_type, {})))


def _shrink(values: Mapping[Any, Any], ids: dict[int, int]) -> dict[Any, Any]:
    shrunk = {}
    for name, value in values.items():
        if name not in LEFT_OUT:
            shrunk[name] = _shrink_value(name, value, ids)
    return shrunk


def _shrink_value(name: Any, value: Any, ids: dict[int, int]) -> Any:
    if not isinstance(name, str):
        return value
    if isinstance(value, dict):
        return _shrink(value, ids)
    if TOKEN.search(name):
        return _move_tokens(value, ids)
    if isinstance(value, list | tuple):
        return _shrink_list(name, list(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return _shrink_size(name, value)
    return value


def _move_tokens(value: Any, ids: dict[int, int]) -> Any:
    """Move ids that lie outside the vocabulary to its end, equal ones to one place."""
    if isinstance(value, list | tuple):
        return [_move_tokens(item, ids) for item in value]
    if isinstance(value, bool) or not isinstance(value, int) or value < ORDINARY:
        return value
    return ids.setdefault(value, VOCABULARY - 1 - len(ids))


def _shrink_size(name: str, value: int) -> int:
    for pattern, size in SIZES.items():
        if re.search(pattern, name):
            return min(value, size)
    return value


def _shrink_list(name: str, values: list[Any]) -> list[Any]:
    if name == "mrope_section":
        return [2, 1, 1]
    numbers = bool(values) and all(isinstance(value, int) for value in values)
    if numbers and "index" in name:
        return [0, 1][: len(values)]
    if numbers and re.search("image_size|patch_size", name):
        return [_shrink_size(name, value) for value in values]
    if values and isinstance(values[0], str) and ("layer" in name or "types" in name):
        kinds = list(dict.fromkeys(values))
        return (kinds * 2)[:2]
    return values


def _merge(values: dict[str, Any], corrections: Mapping[str, Any]) -> dict[str, Any]:
    """Replace values by corrections, those of parts within the parts."""
    merged = dict(values)
    for name, value in corrections.items():
        own = merged.get(name)
        is_part = name.endswith("_config") and name != "per_layer_config"
        if is_part and isinstance(value, dict) and isinstance(own, dict):
            value = _merge(own, value)
        merged[name] = value
    return merged
