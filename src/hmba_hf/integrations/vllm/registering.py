"""What the plug-in registers with vLLM: the models, the checks of their configurations, the reader of videos."""

from collections.abc import Mapping
from typing import Any

import torch

from ... import registration  # noqa: F401 - H-MBA's classes at transformers' doors
from ...installation import missing_package
from .chatting import show_videos_as_pictures
from .language_models import architectures_of
from .mending import answer_scans
from .options import media_of_engine, options_of_engine
from .reading import READER, VideoBytes

try:
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY
    from vllm.platforms import current_platform
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing


_HMBA = "HMBAForConditionalGeneration"
_HMBA_VLM = "HMBAVLMForConditionalGeneration"


# Vision-language models on which vLLM's answers are tested to be the pipeline's. Some of the others have features for
# deeper layers, attend within pictures to both sides, or cut a picture into pieces by what else is in its prompt.
BASES = ("internvl", "llava", "qwen2_5_vl")


class HMBAChecks(VerifyAndUpdateConfig):
    """What is settled before an engine starts with an H-MBA."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Leave the decoding of videos to H-MBA's processor, unless the user has named a reader.

        Raises:
            ValueError: if an option of videos is none, if weights in 4 bits shall meet float32 on a CPU, or if the
                language model shall be in several stages, and vLLM has it in one alone.
        """
        model_config = vllm_config.model_config
        is_wide = model_config.dtype == torch.float32
        if is_wide and current_platform.is_cpu() and _is_in_four_bits(model_config.hf_config):
            raise ValueError("dtype must be bfloat16 for weights in 4 bits in vLLM's build for CPUs, got float32")
        of_videos = model_config.multimodal_config
        of_videos.mm_processor_kwargs = options_of_engine(of_videos.mm_processor_kwargs)
        of_media = of_videos.media_io_kwargs
        of_media["video"] = media_of_engine(of_media.get("video"), READER)
        stages = vllm_config.parallel_config.pipeline_parallel_size
        names = architectures_of(model_config.hf_config.get_text_config())
        if stages > 1 and names and not ModelRegistry.is_pp_supported_model(names, model_config):
            raise ValueError(
                f"pipeline_parallel_size must be 1 with {names[0]}, which vLLM has in one stage alone, got {stages}"
            )


def _is_in_four_bits(config: Any) -> bool:
    """Return whether weights of a checkpoint are in 4 bits, as compressed-tensors, GPTQ or AWQ says it."""
    quantised = getattr(config, "quantization_config", None) or {}
    if not isinstance(quantised, Mapping):
        quantised = quantised.to_dict()
    bits = [quantised.get("bits")]
    for group in (quantised.get("config_groups") or {}).values():
        bits.append((group.get("weights") or {}).get("num_bits"))
    return 4 in bits


class HMBAVLMChecks(HMBAChecks):
    """What is settled before an engine starts with an H-MBA on a vision-language model."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuse bases that vLLM's language models cannot take the place of, and settle the rest as for any H-MBA.

        Raises:
            ValueError: for such a base, and as there.
        """
        base = vllm_config.model_config.hf_config.base_config.model_type
        if base not in BASES:
            raise ValueError(
                f"a model for vLLM must be an H-MBA on a language model or on one of {', '.join(BASES)}, got one on "
                f"{base}: `hmba serve` takes it"
            )
        show_videos_as_pictures()
        HMBAChecks.verify_and_update_config(vllm_config)


def register_all() -> None:
    """Register everything; a second call changes nothing."""
    ModelRegistry.register_model(_HMBA, f"{__package__}.model:HMBAForVLLM")
    ModelRegistry.register_model(_HMBA_VLM, f"{__package__}.model_vlm:HMBAVLMForVLLM")
    MODELS_CONFIG_MAP[_HMBA] = HMBAChecks
    MODELS_CONFIG_MAP[_HMBA_VLM] = HMBAVLMChecks
    VIDEO_LOADER_REGISTRY.register(READER)(VideoBytes)
    answer_scans()


__all__ = ["BASES", "HMBAChecks", "HMBAVLMChecks", "register_all"]
