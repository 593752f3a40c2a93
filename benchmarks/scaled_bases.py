"""Vision-language models in the proportions of real ones: all widths divided by one number, random weights.

Depths stay. The tokens of a picture are divided as the widths are, to the nearest square, so that attention, whose
share of a language model grows with tokens over width, keeps its share. Only one token of a prompt meets the head, so
the vocabulary is small. Each model has a divisor with which a picture has 36 tokens. Narrower models spend more of
their time between operations than in them.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import InternVLConfig, LlavaConfig, Qwen3VLConfig

VOCABULARY = 1000
IMAGE, VIDEO, START, END, WORD = 1, 2, 3, 4, 5  # tokens
WORDS = 64  # of a question with its template, before division
HEADS = 8  # of the language models


class Base:
    """A model with a language model of width 4096, whose own way with videos is to read frames as pictures.

    Args:
        divisor: of all widths, of the tokens of a picture, and of those of a question; its own when absent.
    """

    title: str
    own_divisor: int
    real_tokens: int  # of a picture
    token_side: int  # pixels
    modality = "image"  # what frames are to it, in `mm_encoder_outputs`

    def __init__(self, divisor: int | None = None):
        self.divisor = divisor or self.own_divisor
        self.width = 4096 // self.divisor
        self.grid = max(1, round((self.real_tokens / self.divisor) ** 0.5))
        self.tokens = self.grid**2
        self.side = self.grid * self.token_side
        self.words = [WORD] * max(1, WORDS // self.divisor)

    def __str__(self) -> str:
        return f"{self.title}, widths / {self.divisor}, {self.tokens} tokens a picture of {self.side} px"

    def build_config(self) -> Any:
        """Return the configuration of the model."""
        raise NotImplementedError

    def draw_frames(self, frames: int) -> Tensor:
        """Draw frames of noise, `(t, 3, height, width)`."""
        return torch.randn(frames, 3, self.side, self.side, generator=torch.Generator().manual_seed(0))

    def pictures(self, frames: Tensor) -> dict[str, Tensor]:
        """Return frames as the model takes pictures."""
        return {"pixel_values": frames}

    def ask_about_picture(self) -> dict[str, Tensor]:
        """Return the tokens of a question about one picture."""
        return {"input_ids": torch.tensor([[IMAGE] * self.tokens + self.words])}

    def ask_about_frames(self, frames: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tokens of a question about all frames in the model's own way, and the frames so."""
        tokens = torch.tensor([[IMAGE] * (len(frames) * self.tokens) + self.words])
        return {"input_ids": tokens}, self.pictures(frames)

    def encode_frames(self, model: Any, videos: dict[str, Tensor]) -> Any:
        """Return what the model makes of frames in its own way, before its language model."""
        return model.base_model.get_image_features(**videos, return_dict=True)

    def _language_model(self, layers: int, feed_forward: int, **values: Any) -> dict[str, Any]:
        return {
            "hidden_size": self.width,
            "intermediate_size": feed_forward // self.divisor,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "head_dim": self.width // HEADS,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 2**18,
            **values,
        }


class Llava(Base):
    """LLaVA-1.5-7B: CLIP-L/14 at 336 px, a patch a token, and Vicuna-7B; H-MBA's own base is of this kind."""

    title = "LLaVA-1.5-7B"
    own_divisor = 16
    real_tokens = 576
    token_side = 14

    def build_config(self) -> LlavaConfig:
        """Return the configuration of the model."""
        tower = {
            "model_type": "clip_vision_model",
            "hidden_size": 1024 // self.divisor,
            "intermediate_size": 4096 // self.divisor,
            "num_hidden_layers": 24,
            "num_attention_heads": 4,
            "image_size": self.side,
            "patch_size": self.token_side,
        }
        text = self._language_model(32, 11008, model_type="llama", num_key_value_heads=HEADS)
        return LlavaConfig(
            vision_config=tower, text_config=text, image_token_index=IMAGE, image_seq_length=self.tokens
        )


class InternVL(Base):
    """InternVL3.5-8B: InternViT-300M at 448 px, 4 patches a token, and Qwen3-8B."""

    title = "InternVL3.5-8B"
    own_divisor = 8
    real_tokens = 256
    token_side = 28

    def build_config(self) -> InternVLConfig:
        """Return the configuration of the model."""
        tower = {
            "hidden_size": 1024 // self.divisor,
            "intermediate_size": 4096 // self.divisor,
            "num_hidden_layers": 24,
            "num_attention_heads": 4,
            "attention_bias": True,
            "image_size": [self.side, self.side],
            "patch_size": [14, 14],
        }
        text = self._language_model(36, 12288, model_type="qwen3", num_key_value_heads=HEADS // 4)
        return InternVLConfig(
            vision_config=tower, text_config=text, image_token_id=IMAGE, image_seq_length=self.tokens
        )


class Qwen3VL(Base):
    """Qwen3-VL-8B on frames of 512 px: 4 patches a token, and features of 3 tower layers for deeper layers.

    Its own way with videos is half as long: two frames make the tokens of one picture. A real prompt has the time
    before each two; here they have only the token before and the one behind them.
    """

    title = "Qwen3-VL-8B"
    own_divisor = 8
    real_tokens = 256
    token_side = 32
    modality = "video"

    def build_config(self) -> Qwen3VLConfig:
        """Return the configuration of the model."""
        width = 8 * round(1152 / self.divisor / 8)  # a head's must be a multiple of 4
        tower = {
            "depth": 27,
            "hidden_size": width,
            "intermediate_size": 4304 // self.divisor,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": self.width,
            "num_position_embeddings": (2 * self.grid) ** 2,
            "deepstack_visual_indexes": [8, 16, 24],
        }
        angles = self.width // HEADS // 2
        across = angles * 20 // 64
        rope = {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [angles - 2 * across, across, across],
            "mrope_interleaved": True,
        }
        text = self._language_model(36, 12288, num_key_value_heads=HEADS // 4, rope_parameters=rope)
        return Qwen3VLConfig(
            vision_config=tower,
            text_config=text,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=START,
            vision_end_token_id=END,
        )

    def pictures(self, frames: Tensor) -> dict[str, Tensor]:
        """Return frames as the model takes pictures: each one twice, as its tower takes two at once."""
        patches, grids = self._cut(torch.stack([frames, frames], dim=1))
        return {"pixel_values": patches, "image_grid_thw": grids}

    def ask_about_picture(self) -> dict[str, Tensor]:
        """Return the tokens of a question about one picture."""
        return self._with_kinds([START, *[IMAGE] * self.tokens, END, *self.words])

    def ask_about_frames(self, frames: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tokens of a question about all frames as one video, and the video."""
        if len(frames) % 2:
            frames = torch.cat([frames, frames[-1:]])
        patches, grids = self._cut(frames.unflatten(0, (-1, 2)))
        tokens = [START, *[VIDEO] * self.tokens, END] * len(grids)
        whole = torch.tensor([[len(grids), 2 * self.grid, 2 * self.grid]])
        return self._with_kinds(tokens + self.words), {"pixel_values_videos": patches, "video_grid_thw": whole}

    def encode_frames(self, model: Any, videos: dict[str, Tensor]) -> Any:
        """Return what the model makes of a video, before its language model."""
        return model.base_model.get_video_features(**videos, return_dict=True)

    def _cut(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Cut `(n, 2, 3, height, width)` to rows of patches, those of a token together, and return their grids."""
        n = len(pairs)
        cut = pairs.reshape(n, 2, 3, self.grid, 2, 16, self.grid, 2, 16)
        ordered = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # tokens, patches of a token, pixels
        patches = ordered.flatten(5).flatten(0, 4)
        return patches, torch.tensor([[1, 2 * self.grid, 2 * self.grid]] * n)

    def _with_kinds(self, tokens: list[int]) -> dict[str, Tensor]:
        kinds = {IMAGE: 1, VIDEO: 2}
        return {
            "input_ids": torch.tensor([tokens]),
            "mm_token_type_ids": torch.tensor([[kinds.get(token, 0) for token in tokens]]),
        }


BASES: dict[str, type[Base]] = {"llava": Llava, "internvl": InternVL, "qwen3_vl": Qwen3VL}
