"""The video models of the released MambaVL: a CLIP that reads all frames, and a Motionformer that sees objects."""

import re
from typing import Any, cast

from .loading_safetensors import SafetensorsPreTrainedModel  # first: it refuses an old transformers

# isort: split
import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPPreTrainedModel, CLIPVisionEmbeddings
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_mambavl import MambaVLMotionformerConfig, MambaVLVisionConfig
from .layers_conditions import require
from .layers_objects import MotionStream, ObjectBlock, box_corners
from .layers_trajectories import TrajectoryBlock

logger = logging.get_logger(__name__)
# Sides in parts of the frame up to which the released data take a box for none.
EMPTY_SIDE = 0.05
BOX_TOLERANCE = 0.01  # of the frame, for boxes that were rounded to half precision


class MambaVLVisionModel(SafetensorsPreTrainedModel, CLIPPreTrainedModel):
    """The tokens of a clip: one class token, then the patches of one frame after the other, normed.

        tokens = norm(encoder(norm([class + place, patches[t] + places + time[t] for each t])))

    A model of one frame is CLIP's, without times.

    Args:
        config: of the model.

    Source: zhaoyue-zephyrus/AVION, `transformer.py`; arXiv:2309.16669.
    Differs: returns all tokens after the last norm, where AVION returns the first one. MambaVL's files read all, and
        the code that changes this is not public.
    """

    config: MambaVLVisionConfig  # type: ignore[assignment]  # no CLIPConfig, but has its values
    may_be_new = re.compile(r"(?!)")  # nothing
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values_videos"
    input_modalities: Any = ("video",)
    _auto_class = "AutoModel"
    _no_split_modules = ["CLIPEncoderLayer", "CLIPVisionEmbeddings"]

    def __init__(self, config: MambaVLVisionConfig):
        super().__init__(config)
        self.embeddings = CLIPVisionEmbeddings(config)
        self.temporal_embeddings = None
        if config.num_frames > 1:
            self.temporal_embeddings = nn.Parameter(torch.zeros(config.num_frames, config.hidden_size))
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # as CLIP spells it
        self.encoder = CLIPEncoder(cast(Any, config))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that embeds patches."""
        return self.embeddings.patch_embedding

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values_videos: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutput:
        """Encode clips.

        Args:
            pixel_values_videos: `(b, num_frames, channels, height, width)`.
            kwargs: such as `output_hidden_states` and `output_attentions`.

        Returns:
            `last_hidden_state`, `(b, 1 + num_frames * p, d)`.

        Raises:
            ValueError: if clips have another shape.
        """
        embedded = self.pre_layrnorm(self._embed(pixel_values_videos))
        encoded = self.encoder(inputs_embeds=embedded, **kwargs).last_hidden_state
        return BaseModelOutput(last_hidden_state=self.post_layernorm(encoded))

    def _embed(self, pixel_values_videos: Tensor | None) -> Tensor:
        clips = _checked_clips(pixel_values_videos, self.config)
        frames = self.embeddings(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])  # (b, t, 1 + p, d)
        patches = frames[:, :, 1:]
        if self.temporal_embeddings is not None:
            patches = patches + self.temporal_embeddings[:, None]
        return torch.cat([frames[:, 0, :1], patches.flatten(1, 2)], dim=1)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as CLIP does; times begin at zero."""
        super()._init_weights(module)
        if isinstance(module, MambaVLVisionModel) and module.temporal_embeddings is not None:
            init.zeros_(module.temporal_embeddings)


class MambaVLMotionformerModel(SafetensorsPreTrainedModel):
    """The tokens of a clip by attention along trajectories, some layers of which also read boxes of objects.

        tokens = tanh(pre_logits(norm(layers([class + place, patches[t] + places + time[t] for each t]))))

    A patch spans `tubelet_size` frames. The class token is the first.

    Args:
        config: of the model.

    Source: Motionformer, arXiv:2106.05392; ORViT, arXiv:2110.06915; Dongzhikang/MambaVL, `video_model_builder.py`.
    Differs: without boxes it reads clips as the released data give those in which nothing is found, with zeros. The
        released model needs them.
    """

    config: MambaVLMotionformerConfig
    may_be_new = re.compile(r"(?!)")  # nothing
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values_videos"
    input_modalities: Any = ("video",)
    supports_gradient_checkpointing = True
    _auto_class = "AutoModel"
    _no_split_modules = ["TrajectoryBlock", "ObjectBlock"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": TrajectoryBlock}

    def __init__(self, config: MambaVLMotionformerConfig):
        super().__init__(config)
        width = config.hidden_size
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        side = config.image_size // config.patch_size
        self.size = (config.num_frames // config.tubelet_size, side, side)
        self.patch_embedding = nn.Conv3d(config.num_channels, width, kernel_size=kernel, stride=kernel)
        self.class_embedding = nn.Parameter(torch.zeros(1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1 + side * side, width))
        self.temporal_embeddings = nn.Parameter(torch.zeros(self.size[0], width))
        self.layers = nn.ModuleList(self._build_layer(number) for number in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pre_logits = nn.Linear(width, width)
        self.post_init()

    def _build_layer(self, number: int) -> TrajectoryBlock:
        config = self.config
        sizes: dict[str, Any] = {
            "hidden_size": config.hidden_size,
            "num_heads": config.num_attention_heads,
            "intermediate_size": config.intermediate_size,
            "eps": config.layer_norm_eps,
        }
        if number in config.object_layers:  # which skip no samples in the released code
            return ObjectBlock(**sizes, num_frames=self.size[0], num_objects=config.num_objects)
        last = max(config.num_hidden_layers - 1, 1)
        return TrajectoryBlock(**sizes, drop_path_rate=config.drop_path_rate * number / last)

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that embeds patches."""
        return self.patch_embedding

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        boxes: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encode clips.

        Args:
            pixel_values_videos: `(b, num_frames, channels, height, width)`.
            boxes: of the objects in each frame, `(b, num_frames, num_objects, 4)`: centre, width and height in parts
                of the frame as the model sees it. Zeros stand for no object, and so does a side of at most 0.05. When
                absent there are none, with a warning.
            kwargs: such as `output_hidden_states`.

        Returns:
            `last_hidden_state`, `(b, 1 + num_frames / tubelet_size * p, d)`.

        Raises:
            ValueError: if clips or boxes have another shape, or if a box leaves its frame.
        """
        clips = _checked_clips(pixel_values_videos, self.config)
        seen = self._checked_boxes(boxes, clips)[:, :: self.config.tubelet_size]
        tokens = self._embed(clips)
        for layer in self.layers:
            tokens = layer(tokens, seen, self.size)
        return BaseModelOutput(last_hidden_state=self.pre_logits(self.norm(tokens)).tanh())

    def _embed(self, clips: Tensor) -> Tensor:
        patches = self.patch_embedding(clips.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)  # (b, t, p, d)
        patches = patches + self.position_embeddings[1:] + self.temporal_embeddings[:, None]
        first = (self.class_embedding + self.position_embeddings[:1]).expand(clips.shape[0], 1, -1)
        return torch.cat([first, patches.flatten(1, 2)], dim=1)

    def _checked_boxes(self, boxes: Tensor | None, clips: Tensor) -> Tensor:
        """Return boxes, never narrower than float32, and zeros for those of no size."""
        wanted = (*clips.shape[:2], self.config.num_objects, 4)
        wide = torch.promote_types(clips.dtype, torch.float32)
        if boxes is None:
            if self.config.object_layers:
                logger.warning_once("boxes are absent: the clips are read as if no objects were found in them")
            return clips.new_zeros(wanted, dtype=wide)
        if tuple(boxes.shape) != wanted:
            raise ValueError(f"boxes must be (batch, frames, objects, 4), here {wanted}, got {tuple(boxes.shape)}")
        boxes = boxes.to(wide)
        is_part = (boxes >= 0) & (boxes <= 1)
        require(is_part.all(), "boxes must be centre, width and height from 0 to 1 of the frame, got others")
        has_size = (boxes[..., 2:] > EMPTY_SIDE).all(dim=-1, keepdim=True)
        boxes = boxes * has_size
        corners = box_corners(boxes)
        is_within = (corners > -BOX_TOLERANCE) & (corners < 1 + BOX_TOLERANCE)
        require(is_within.all(), "boxes must not leave their frame, got one that does")
        return boxes

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw all weights, and the tables but the times, which begin at zero."""
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.get_parameter("bias"))
        elif isinstance(module, (ObjectBlock, MotionStream)):
            init.trunc_normal_(module.object_embeddings, std=std)
        elif isinstance(module, MambaVLMotionformerModel):
            init.trunc_normal_(module.class_embedding, std=std)
            init.trunc_normal_(module.position_embeddings, std=std)
            init.zeros_(module.temporal_embeddings)


def _checked_clips(pixel_values_videos: Tensor | None, config: Any) -> Tensor:
    """Return clips; raise a `ValueError` unless they have the shape that a configuration states."""
    wanted = (config.num_frames, config.num_channels, config.image_size, config.image_size)
    if pixel_values_videos is None:
        raise ValueError(f"pixel_values_videos must be (batch, {', '.join(map(str, wanted))}), got none")
    shape = tuple(pixel_values_videos.shape)
    if shape[1:] != wanted or shape[0] == 0:
        raise ValueError(f"pixel_values_videos must be (batch, {', '.join(map(str, wanted))}), got {shape}")
    return pixel_values_videos
