"""What the plug-in registers with vLLM: the models, the checks of their configurations, the reader of videos."""

from typing import Any

from ... import registration  # noqa: F401 - H-MBA's classes at transformers' doors
from .mending import answer_scans
from .reading import READER, VideoBytes

try:
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY
except ImportError as missing:
    raise ImportError("the vLLM plug-in needs `pip install vllm`") from missing


_HMBA = "HMBAForConditionalGeneration"
_HMBA_VLM = "HMBAVLMForConditionalGeneration"


class HMBAChecks(VerifyAndUpdateConfig):
    """What is settled before an engine starts with an H-MBA."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Leave the decoding of videos to H-MBA's processor, unless the user has named a reader."""
        of_media = vllm_config.model_config.multimodal_config.media_io_kwargs
        of_media["video"] = {"video_backend": READER, **of_media.get("video", {})}


class HMBAVLMChecks(VerifyAndUpdateConfig):
    """An H-MBA on a vision-language model is refused."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuse it.

        Raises:
            ValueError: always.
        """
        base = vllm_config.model_config.hf_config.base_config.model_type
        raise ValueError(
            f"a model for vLLM must be an H-MBA on a language model, got one on {base}: `hmba serve` takes it"
        )


def register_all() -> None:
    """Register everything; a second call changes nothing."""
    ModelRegistry.register_model(_HMBA, f"{__package__}.model:HMBAForVLLM")
    ModelRegistry.register_model(_HMBA_VLM, f"{__package__}.model:HMBAForVLLM")
    MODELS_CONFIG_MAP[_HMBA] = HMBAChecks
    MODELS_CONFIG_MAP[_HMBA_VLM] = HMBAVLMChecks
    VIDEO_LOADER_REGISTRY.register(READER)(VideoBytes)
    answer_scans()


__all__ = ["HMBAChecks", "HMBAVLMChecks", "register_all"]
