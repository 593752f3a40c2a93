"""H-MBA in vLLM's engine: its vision tower, adapter and projector before vLLM's own language model."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from ...installation import missing_package
from ...models.configuration_hmba import HMBAConfig
from ...models.joining_adapter import build_adapter
from ...models.joining_hmba import build_projector
from ...models.layers_state_space import compile_kernels_of
from ...models.modeling_hmba import HMBAModel
from .language_models import architectures_of, names_within
from .mending import leave_requests_without_updates_alone
from .naming import CheckpointNames
from .processing import TIME, BlankClips, ClipInfo, ClipProcessor, clip_token_of
from .staging import take_what_the_stage_before_sends
from .together import encode_together

try:
    from vllm.model_executor.models.interfaces import (
        SupportsLoRA,
        SupportsMultiModal,
        SupportsPP,
        is_attention_free,
        is_hybrid,
        supports_pp,
    )
    from vllm.model_executor.models.module_mapping import MultiModelKeys
    from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
    from vllm.multimodal import MULTIMODAL_REGISTRY
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing


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


class ClipsForVLLM(nn.Module, SupportsMultiModal, SupportsLoRA, SupportsPP):
    """What every H-MBA is for vLLM: `video`, which encodes clips, before vLLM's own `language_model`.

    Low-rank updates and weights in fewer bits are those of the language model; tensor and pipeline parallelism spread
    it alone, and each process has the other parts whole.

    Raises:
        ValueError: if the language model is not one of attention alone.

    Source: arXiv:2501.04302.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        config: Any = vllm_config.model_config.hf_config
        text_config = self.text_config_of(config)
        self.config = config
        of_vllm: Any = self  # its methods, which nn.Module's look-up of names hides from a type checker
        of_vllm.configure_mm_token_handling(text_config.vocab_size, [clip_token_of(config)])
        self.hf_to_vllm_mapper = self.names_of_weights(text_config)
        if vllm_config.lora_config is not None:
            leave_requests_without_updates_alone()
        if vllm_config.parallel_config.pipeline_parallel_size > 1:
            take_what_the_stage_before_sends()
        if vllm_config.quant_config is not None:  # vLLM itself maps names that a class knows without a config
            vllm_config.quant_config.apply_vllm_mapper(self.hf_to_vllm_mapper)
        with of_vllm._mark_tower_model(vllm_config, "video"):
            self.video: Any = self.build_encoder(vllm_config)
        with of_vllm._mark_language_model(vllm_config):
            self.language_model: Any = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=text_config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=architectures_of(text_config),
            )
        if is_hybrid(self.language_model) or is_attention_free(self.language_model):
            kind = type(self.language_model).__name__
            raise ValueError(f"the language model must be one of attention alone for vLLM, got {kind}")
        self.embedding_modules = getattr(self.language_model, "embedding_modules", {})
        if supports_pp(self.language_model):
            self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def text_config_of(self, config: Any) -> Any:
        """Return the configuration of the language model."""
        return config.get_text_config()

    def build_encoder(self, vllm_config: Any) -> nn.Module:
        """Build the parts that encode clips."""
        raise NotImplementedError

    def names_of_weights(self, text_config: Any) -> CheckpointNames:
        """Return where the weights of a checkpoint go, by their names."""
        raise NotImplementedError

    def encode(self, clips: dict[str, Tensor]) -> Any:
        """Encode clips of one shape, of which each input has a row, and return `(p, hidden_size)` of each."""
        raise NotImplementedError

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return nothing: H-MBA's chat templates write the token of a video themselves."""
        return None

    def get_mm_mapping(self) -> MultiModelKeys:
        """Return which part is the language model, the one that takes low-rank updates."""
        return MultiModelKeys.from_string_field(language_model="language_model", tower_model="video")

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encode clips to `(p, hidden_size)` each, some of one shape at once; each input has an item for each."""
        kwargs.pop(TIME, None)  # it stands in the prompt
        return encode_together(kwargs, self.encode)

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
            positions: `(tokens,)` of each token in its own prompt; `(3, tokens)` where they are of three axes.
            intermediate_tensors: of the stage before this one, where there is one.
            inputs_embeds: `(tokens, hidden_size)`, with clips in their places; of the first stage.
        """
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the logits."""
        return self.language_model.compute_logits(hidden_states)


@MULTIMODAL_REGISTRY.register_processor(ClipProcessor, info=ClipInfo, dummy_inputs=BlankClips)
class HMBAForVLLM(ClipsForVLLM):
    """H-MBA as vLLM runs it: answers are those of `HMBAForConditionalGeneration`."""

    def build_encoder(self, vllm_config: Any) -> VideoEncoder:
        """Build the vision tower, the adapter and the projector."""
        encoder = VideoEncoder(deepcopy(self.config), vllm_config.model_config.get_inputs_embeds_size())
        encoder.set_dtype(vllm_config.model_config.dtype)
        return encoder

    def names_of_weights(self, text_config: Any) -> CheckpointNames:
        """Return where the weights of a checkpoint go: its language model's as in checkpoints of their own."""
        own = names_within(text_config)
        return CheckpointNames(
            orig_to_new_prefix={
                "model.language_model.": f"language_model.{own.body}.",
                "lm_head": f"language_model.{own.head}",
                "model.": "video.",
            }
        )

    def encode(self, clips: dict[str, Tensor]) -> Tensor:
        """Encode clips of one length, `pixel_values_videos` `(b, t, channels, height, width)`."""
        return self.video.get_video_features(**clips, return_dict=True).pooler_output

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the logits, in which a video token, for which there would be no video, is never the next one."""
        logits = super().compute_logits(hidden_states)
        if logits is not None:
            logits[..., self.config.video_token_id] = float("-inf")
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the weights of a checkpoint and return their names; meanwhile the adapter's kernels are compiled."""
        compile_kernels_of(self.video)
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)


__all__ = ["ClipsForVLLM", "HMBAForVLLM", "VideoEncoder"]
