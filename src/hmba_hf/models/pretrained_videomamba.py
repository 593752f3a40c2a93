"""The base class of all VideoMamba models: loading them from safetensors, and initialising new weights."""

import math
import re
from itertools import filterfalse
from typing import Any

from .loading_checkpoints import (  # first: it refuses an old transformers
    OPTIONS_OF_PUSHES,
    check_index,
    pushing_options,
    refuse_lacking,
)

# isort: split
import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .configuration_videomamba import VideoMambaConfig
from .layers_scan_orders import OutputProjection
from .layers_state_space import StateSpace
from .layers_video_embeddings import VideoEmbeddings

# Weights that a model may draw anew: heads, and the table of times of a model of pictures that is to take clips.
_NEW = re.compile(r"^(classifier|distillation_head|alignment_heads)\.|\btemporal_embeddings$")


class VideoMambaPreTrainedModel(PreTrainedModel):
    """The base class of all VideoMamba models: loading, saving, initialisation.

    Names with an underscore are those of transformers, which has no public way to set or extend them.
    """

    config: VideoMambaConfig
    base_model_prefix = "videomamba"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video", "image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["VideoEmbeddings", "MambaBlock"]
    _keep_in_fp32_modules_strict = ["A_log"]
    accepts_loss_kwargs = False  # else `Trainer` takes the mean loss of a batch for a part of a sum over several
    _can_compile_fullgraph = True
    _input_embed_layer = "patch_embeddings"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as every model of transformers is loaded, but from safetensors alone.

        Only heads and a table of times may be drawn anew. `output_loading_info=True` returns the report in place of
        the check of missing weights.

        Raises:
            ValueError: if pickled weights are wanted, if a list of shards leads out of the checkpoint, or if the
                checkpoint lacks weights, as one of another family or depth does.
            OSError: if weights are missing, or not in safetensors.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("weights must be in safetensors, got use_safetensors=False: pickles can hold programs")
        kwargs["use_safetensors"] = True
        if pretrained_model_name_or_path is not None:
            check_index(pretrained_model_name_or_path, kwargs)
        wants_report = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, report = loaded
        if wants_report:
            return model, report
        if pretrained_model_name_or_path is not None:  # else the caller passed the weights, and may leave some out
            refuse_lacking(pretrained_model_name_or_path, filterfalse(_NEW.search, report["missing_keys"]))
        return model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Any = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save a model as every model of transformers is saved.

        Differs: `push_to_hub=True` calls the method of that name with its options. So it pushes to a private
        repository unless `private=False` is given; `repo_id` is the folder's name when absent.
        """
        of_push: dict[str, Any] = {}
        if push_to_hub:
            others = {name: kwargs.pop(name) for name in OPTIONS_OF_PUSHES if name in kwargs}
            of_push = pushing_options(self, save_directory, push_to_hub, others)
            of_push["private"] = of_push.get("private") is not False
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if push_to_hub and self.should_save_on_this_rank(is_main_process):
            self.push_to_hub(**of_push)

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
