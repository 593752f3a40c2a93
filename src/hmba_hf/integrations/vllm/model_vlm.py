"""H-MBA on a vision-language model in vLLM's engine: its base's tower and its adapter before vLLM's language model."""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ...installation import missing_package
from ...models.configuration_hmba_vlm import HMBAVLMConfig
from ...models.encoding_hmba_vlm import read_features, split_rows
from ...models.layers_state_space import compile_kernels_of
from ...models.loading_checkpoints import refuse_lacking
from ...models.loading_weights import build_without_weights
from ...models.modeling_hmba_vlm import HMBAVLMModel
from .language_models import names_within
from .model import ClipsForVLLM
from .naming import CheckpointNames
from .processing_vlm import PROMPT, BlankPictures, PictureInfo, PictureProcessor

try:
    from vllm.model_executor.models.interfaces import SupportsMRoPE
    from vllm.model_executor.models.utils import AutoWeightsLoader
    from vllm.multimodal import MULTIMODAL_REGISTRY
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing


class PictureEncoder(HMBAVLMModel):
    """The parts of an H-MBA on a vision-language model that turn a clip into tokens, without its language model.

    Args:
        config: of the whole model.
    """

    def __init__(self, config: HMBAVLMConfig):
        super().__init__(config)
        names = {id(module): name for name, module in self.base.named_modules()}
        for unused in (self.base.get_decoder(), self.base.get_output_embeddings()):
            self.base.set_submodule(names[id(unused)], nn.Identity())
        self._tied_weights_keys = {}
        self.all_tied_weights_keys = {}
        self.base.all_tied_weights_keys = {}

    @classmethod
    def from_weights(cls, config: HMBAVLMConfig, weights: dict[str, Tensor], dtype: torch.dtype) -> "PictureEncoder":
        """Load weights of a checkpoint, by the names that transformers writes or has written for the base.

        Raises:
            ValueError: if one lacks.
        """
        encoder: Any
        encoder, report = cls.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
        refuse_lacking("the checkpoint", report["missing_keys"])
        return encoder

    def encode(self, clips: dict[str, Tensor]) -> list[Tensor]:
        """Encode clips of one shape, of which each input has a row, and return `(p, d)` of each."""
        inputs = {}
        for name, values in clips.items():
            of_all = values.flatten(0, 1).to(self.device)
            if name != PROMPT and len(of_all):
                inputs[name] = of_all
        output = self.encode_clips(**inputs)["mm_encoder_outputs"]["image"]
        return split_rows(read_features(output, self.config.hidden_size), inputs["picture_tokens"].tolist(), None)


@MULTIMODAL_REGISTRY.register_processor(PictureProcessor, info=PictureInfo, dummy_inputs=BlankPictures)
class HMBAVLMForVLLM(ClipsForVLLM, SupportsMRoPE):
    """H-MBA on a vision-language model as vLLM runs it: answers are those of `HMBAVLMForConditionalGeneration`."""

    def text_config_of(self, config: HMBAVLMConfig) -> Any:
        """Return the configuration of the language model; whether its head is its embeddings, its base says."""
        text_config = deepcopy(config.get_text_config())
        text_config.tie_word_embeddings = config.base_config.tie_word_embeddings
        return text_config

    def build_encoder(self, vllm_config: Any) -> PictureEncoder:
        """Build the base's tower and the adapter; `load_weights` replaces them."""
        self.encoder_dtype = vllm_config.model_config.dtype
        encoder = build_without_weights(PictureEncoder, deepcopy(self.config))
        return encoder.to_empty(device=vllm_config.device_config.device)

    def names_of_weights(self, text_config: Any) -> CheckpointNames:
        """Return where the weights of a checkpoint go; transformers has three forms of the names in a base."""
        own = names_within(text_config)
        body = f"language_model.{own.body}."
        forms = {f"model.base.language_model.{own.body}.": body, "model.base.model.language_model.": body}
        for part in ("embed_tokens", "layers", "norm"):
            forms[f"model.base.model.{part}."] = f"{body}{part}."
        for place in ("model.base.language_model.", "model.base."):
            forms[f"{place}{own.head}"] = f"language_model.{own.head}"
        return CheckpointNames(orig_to_new_prefix={**forms, "model.": "video."})

    def encode(self, clips: dict[str, Tensor]) -> list[Tensor]:
        """Encode clips of one shape."""
        return self.video.encode(clips)

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        """Return positions of three axes, `(3, tokens)`, as the base gives them, and how far they are from counting.

        Args:
            input_tokens: of a prompt.
            mm_features: its clips.
        """
        tokens = torch.tensor([input_tokens])
        is_picture = torch.zeros_like(tokens)
        grids = []
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            place = feature.mm_position
            rows = torch.ones(place.length, dtype=torch.bool) if place.is_embed is None else place.is_embed
            is_picture[0, place.offset : place.offset + place.length] = rows.long()
            grids.append(feature.data["image_grid_thw"].data)
        positions, delta = self.video.base.base_model.get_rope_index(
            input_ids=tokens,
            mm_token_type_ids=is_picture,
            image_grid_thw=torch.cat(grids) if grids else None,
        )
        return positions[:, 0], int(delta)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the weights of a checkpoint and return their names."""
        of_encoder: dict[str, Tensor] = {}

        def of_language_model() -> Iterator[tuple[str, Tensor]]:
            for name, weight in self.hf_to_vllm_mapper.apply(weights):
                if name.startswith("video."):
                    of_encoder[name.removeprefix("video.")] = weight
                else:
                    yield name, weight

        loaded = AutoWeightsLoader(self).load_weights(of_language_model())
        place = next(self.video.parameters()).device
        config = deepcopy(self.config)
        if hasattr(config, "quantization_config"):  # it is of the language model
            del config.quantization_config
        self.video = PictureEncoder.from_weights(config, of_encoder, self.encoder_dtype).to(place)
        compile_kernels_of(self.video)
        return loaded | {f"video.{name}" for name, _ in self.video.named_parameters()}


__all__ = ["HMBAVLMForVLLM", "PictureEncoder"]
