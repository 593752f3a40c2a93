"""The base class of all VideoMamba models: what may be new in a checkpoint, and how new weights are initialised."""

import math
import re
from typing import Any

from .loading_safetensors import SafetensorsPreTrainedModel  # first: it refuses an old transformers

# isort: split
import torch
from torch import nn
from transformers import initialization as init

from .configuration_videomamba import VideoMambaConfig
from .layers_scan_orders import OutputProjection
from .layers_state_space import StateSpace, compile_kernels_of
from .layers_video_embeddings import VideoEmbeddings


class VideoMambaPreTrainedModel(SafetensorsPreTrainedModel):
    """The base class of all VideoMamba models: what transformers asks of them, and initialisation.

    Names with an underscore are those of transformers, which has no public way to set or extend them.
    """

    config: VideoMambaConfig
    # Heads, and the table of times of a model of pictures that is to take clips.
    may_be_new = re.compile(r"^(classifier|distillation_head|alignment_heads)\.|\btemporal_embeddings$")
    must_be_read = re.compile(r"\bencoder\.layers\.")
    model_types = ("videomamba",)
    help_with_sizes = "resize_clips of a VideoMambaModel interpolates tables of times and places"
    base_model_prefix = "videomamba"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video", "image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["VideoEmbeddings", "MambaBlock"]
    _keep_in_fp32_modules_strict = ["A_log"]
    accepts_loss_kwargs = False  # else `Trainer` takes the mean loss of a batch for a part of a sum over several
    _can_compile_fullgraph = True
    _input_embed_layer = "patch_embeddings"

    @staticmethod
    def _load_pretrained_model(model: Any, *args: Any, **kwargs: Any) -> Any:
        """Compile kernels while the weights are read."""
        compile_kernels_of(model)
        return SafetensorsPreTrainedModel._load_pretrained_model(model, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the released code does, where every linear layer is drawn anew, `dt_proj` among them.

        Transformers passes modules with parameters of their own, each before the module that holds it.
        """
        std = self.config.initializer_range
        if isinstance(module, OutputProjection):
            bound = 1 / math.sqrt(module.in_features * self.config.num_hidden_layers)
            init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.get_parameter("bias"))
        elif isinstance(module, (nn.RMSNorm, nn.LayerNorm)):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.get_parameter("bias"))
        elif isinstance(module, nn.Conv3d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.get_parameter("bias"), -bound, bound)
        elif isinstance(module, VideoEmbeddings):
            init.zeros_(module.cls_token)
            init.trunc_normal_(module.position_embeddings, std=std)
            if module.temporal_embeddings is not None:
                init.zeros_(module.temporal_embeddings)
        elif isinstance(module, StateSpace):
            module.reset_parameters()
            if self.config.step_initialization == "released":
                for layer in (module.x_proj, module.dt_proj):
                    init.trunc_normal_(layer.weight, std=std)
                init.zeros_(module.dt_proj.bias)
