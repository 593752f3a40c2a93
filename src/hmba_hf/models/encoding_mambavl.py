"""The video model of the released MambaVL: a CLIP whose attention is among the patches of all frames."""

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
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_mambavl import MambaVLVisionConfig


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

    config: MambaVLVisionConfig  # type: ignore[assignment]
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
        config = self.config
        wanted = (config.num_frames, config.num_channels, config.image_size, config.image_size)
        if pixel_values_videos is None:
            raise ValueError(f"pixel_values_videos must be (batch, {', '.join(map(str, wanted))}), got none")
        shape = tuple(pixel_values_videos.shape)
        if shape[1:] != wanted or shape[0] == 0:
            raise ValueError(f"pixel_values_videos must be (batch, {', '.join(map(str, wanted))}), got {shape}")
        frames = self.embeddings(pixel_values_videos.flatten(0, 1)).unflatten(0, shape[:2])  # (b, t, 1 + p, d)
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
