"""The base class of all MambaVL models: what may be new in a checkpoint, and how new weights are initialised."""

import re
from typing import Any

from .loading_safetensors import SafetensorsPreTrainedModel  # first: it refuses an old transformers

# isort: split
import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_mambavl import MambaVLConfig
from .layers_mamba import MambaMixer
from .layers_question_fusion import MambaFusion, TransformerFusion
from .layers_state_space import compile_kernels_of


class MambaVLPreTrainedModel(SafetensorsPreTrainedModel):
    """The base class of all MambaVL models: what transformers asks of them, and initialisation.

    Names with an underscore are those of transformers, which has no public way to set or extend them.
    """

    config: MambaVLConfig
    may_be_new = re.compile(r"^classifiers\.")
    model_types = ("mambavl",)
    base_model_prefix = "mambavl"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video", "text"]
    supports_gradient_checkpointing = True
    # Both mixers of a fusion must be wrapped together, since they share a parameter.
    _no_split_modules = ["MambaFusion", "TransformerFusion", "MlpFusion"]
    _keep_in_fp32_modules_strict = ["A_log"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    accepts_loss_kwargs = False  # else `Trainer` takes the mean loss of a batch for a part of a sum over several

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model; see `SafetensorsPreTrainedModel.from_pretrained`.

        Raises:
            ValueError: as there, or if a checkpoint has two matrices of decays that the model is to share.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for module in model.modules():
            if isinstance(module, MambaFusion) and model.config.share_A:
                if module.text_mixer.A_log is not module.video_mixer.A_log:
                    raise ValueError(
                        "share_A must be false for a checkpoint with two matrices of decays that differ, got true "
                        f"for {pretrained_model_name_or_path}"
                    )
        return loaded

    def save_pretrained(  # type: ignore[override]  # the other options are in `kwargs`
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Any = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save a model; see `SafetensorsPreTrainedModel.save_pretrained`.

        Raises:
            ValueError: as there, or if two matrices of decays that the model is to share differ.
        """
        held = self.state_dict() if state_dict is None else state_dict
        for text, video in self.get_expanded_tied_weights_keys(all_submodels=True).items():
            if text.endswith("text_mixer.A_log") and _differ(held.get(text), held.get(video)):
                raise ValueError(
                    "share_A must be false for a model with two matrices of decays that differ, as one mixer has that "
                    "was trained or merged alone, got true: set model.config.share_A = False"
                )
        super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, **kwargs)

    @staticmethod
    def _load_pretrained_model(model: Any, *args: Any, **kwargs: Any) -> Any:
        """Compile kernels while the weights are read."""
        compile_kernels_of(model)
        return SafetensorsPreTrainedModel._load_pretrained_model(model, *args, **kwargs)

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Return the names of tied parameters, each with the one that it is tied to.

        Transformers ties nothing unless the configuration ties the embeddings of words.
        """
        tied: dict[str, str] = super().get_expanded_tied_weights_keys(all_submodels)
        for name, module in self.named_modules():
            if isinstance(module, MambaFusion) and self.config.share_A:
                prefix = f"{name}." if name else ""
                tied[f"{prefix}text_mixer.A_log"] = f"{prefix}video_mixer.A_log"
        return tied

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what is between the video and the text model, which initialise themselves.

        Transformers passes modules with parameters of their own, each before the module that holds it.
        """
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.get_parameter("bias"))
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.get_parameter("bias"))
        elif isinstance(module, TransformerFusion):
            module.reset_parameters(std)
        elif isinstance(module, MambaMixer):
            module.reset_parameters()
            if self.config.initialization == "released":
                self._init_as_released(module)

    def _init_as_released(self, mixer: MambaMixer) -> None:
        """Draw a mixer as the released code does: Xavier for all matrices, then all linear layers anew."""
        init.xavier_uniform_(mixer.A_log)
        init.xavier_uniform_(mixer.conv1d.weight)
        for layer in (mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj):
            init.trunc_normal_(layer.weight, std=self.config.initializer_range)
        init.zeros_(mixer.dt_proj.bias)


def _differ(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two weights are there, in memory, and have other values."""
    if one is None or other is None or one is other or one.is_meta or other.is_meta:
        return False
    return not torch.equal(one, other)
