"""H-MBA in vLLM's engine: its vision tower, adapter and projector before vLLM's own language model."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from ...models.configuration_hmba import HMBAConfig
from ...models.joining_adapter import build_adapter
from ...models.joining_hmba import build_projector
from ...models.layers_state_space import compile_kernels_of
from ...models.modeling_hmba import HMBAModel
from .mending import leave_requests_without_updates_alone
from .naming import CheckpointNames
from .processing import BlankClips, ClipInfo, ClipProcessor

try:
    from vllm.model_executor.models.interfaces import (
        SupportsLoRA,
        SupportsMultiModal,
        is_attention_free,
        is_hybrid,
    )
    from vllm.model_executor.models.module_mapping import MultiModelKeys
    from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
    from vllm.multimodal import MULTIMODAL_REGISTRY
except ImportError as missing:
    raise ImportError("the vLLM plug-in needs `pip install vllm`") from missing


class VideoEncoder(HMBAModel):
    """The parts of an H-MBA that turn a clip into tokens, without its language model.

    Args:
        config: of the whole model.
        width: of the language model's embeddings.
    """

    def __init__(self, config: HMBAConfig, width: int):
        super(HMBAModel, self).__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.temporal_adapter = build_adapter(config, config.vision_config.hidden_size)
        self.multi_modal_projector = build_projector(config, width)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Bring the weights to a dtype, but for those that loading leaves in float32, too."""
        self.to(dtype)  # type: ignore[arg-type]  # PreTrainedModel.to hides the signature of torch's
        stay_wide = tuple(self._keep_in_fp32_modules_strict)
        for name, parameter in self.named_parameters():
            if name.endswith(stay_wide):
                parameter.data = parameter.data.float()


def _names_of_weights(config: HMBAConfig) -> CheckpointNames:
    """Return where vLLM's language model looks for the weights of a checkpoint: as in checkpoints of its own."""
    language_model: Any = AutoModelForCausalLM._model_mapping[type(config.text_config)]
    head = "lm_head"
    for tied in language_model._tied_weights_keys or ():
        head = tied.removesuffix(".weight")
    prefixes = {
        "model.language_model.": f"language_model.{language_model.base_model_prefix}.",
        "lm_head": f"language_model.{head}",
        "model.": "video.",
    }
    return CheckpointNames(orig_to_new_prefix=prefixes)


@MULTIMODAL_REGISTRY.register_processor(ClipProcessor, info=ClipInfo, dummy_inputs=BlankClips)
class HMBAForVLLM(nn.Module, SupportsMultiModal, SupportsLoRA):
    """H-MBA as vLLM runs it: answers are those of `HMBAForConditionalGeneration`.

    Low-rank updates and weights in fewer bits are those of the language model.

    Source: arXiv:2501.04302.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        config: HMBAConfig = vllm_config.model_config.hf_config
        self.config = config
        of_vllm: Any = self  # its methods, which nn.Module's look-up of names hides from a type checker
        of_vllm.configure_mm_token_handling(config.text_config.vocab_size, [config.video_token_id])
        self.hf_to_vllm_mapper = _names_of_weights(config)
        if vllm_config.lora_config is not None:
            leave_requests_without_updates_alone()
        if vllm_config.quant_config is not None:  # vLLM itself maps names that a class knows without a config
            vllm_config.quant_config.apply_vllm_mapper(self.hf_to_vllm_mapper)
        with of_vllm._mark_tower_model(vllm_config, "video"):
            self.video: Any = VideoEncoder(deepcopy(config), vllm_config.model_config.get_inputs_embeds_size())
            self.video.set_dtype(vllm_config.model_config.dtype)
        with of_vllm._mark_language_model(vllm_config):
            self.language_model: Any = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
            )
        if is_hybrid(self.language_model) or is_attention_free(self.language_model):
            kind = type(self.language_model).__name__
            raise ValueError(f"the language model must be one of attention alone for vLLM, got {kind}")
        self.embedding_modules = getattr(self.language_model, "embedding_modules", {})

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return nothing: H-MBA's chat templates write the token of a video themselves."""
        return None

    def get_mm_mapping(self) -> MultiModelKeys:
        """Return which part is the language model, the one that takes low-rank updates."""
        return MultiModelKeys.from_string_field(language_model="language_model", tower_model="video")

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encode clips, each `(t, channels, height, width)`, to `(p, hidden_size)`; those of one length together."""
        clips = kwargs.get("pixel_values_videos")
        if clips is None:
            return []
        places: dict[int, list[int]] = {}
        for place, clip in enumerate(clips):
            places.setdefault(len(clip), []).append(place)
        embeddings: list[Any] = [None] * len(clips)
        for alike in places.values():
            pixels = torch.stack([clips[place] for place in alike])
            encoded = self.video.get_video_features(pixels, return_dict=True)
            for place, embedding in zip(alike, encoded.pooler_output, strict=True):
                embeddings[place] = embedding
        return embeddings

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the language model.

        Args:
            input_ids: `(tokens,)` of all requests that run together.
            positions: `(tokens,)` of each token in its own prompt.
            intermediate_tensors: of a stage before this one, which there is not.
            inputs_embeds: `(tokens, hidden_size)`, with clips in their places.
        """
        return self.language_model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the logits, in which a video token, for which there would be no video, is never the next one."""
        logits = self.language_model.compute_logits(hidden_states)
        if logits is not None:
            logits[..., self.config.video_token_id] = float("-inf")
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the weights of a checkpoint and return their names; meanwhile the adapter's kernels are compiled."""
        compile_kernels_of(self.video)
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)


__all__ = ["HMBAForVLLM", "VideoEncoder"]
