"""All that the package shows, and its models at transformers' doors: the Auto classes, the pipeline, `push_to_hub`.

Importing this file registers them; `import hmba_hf` puts it off until they can matter.
"""

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoProcessor,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .models.configuration_hmba import HMBAConfig
from .models.configuration_hmba_vlm import HMBAVLMConfig
from .models.configuration_mambavl import (
    MambaVLConfig,
    MambaVLFeaturesConfig,
    MambaVLMotionformerConfig,
    MambaVLVisionConfig,
)
from .models.configuration_videomamba import VideoMambaConfig, VideoMambaRetrievalConfig
from .models.decoding_containers import SourceLimits
from .models.decoding_video import VideoDecodeError, decode_frames, iter_frames
from .models.encoding_mambavl import MambaVLMotionformerModel, MambaVLVisionModel
from .models.layers_adapter_state import AdapterState
from .models.layers_linear import set_linear_implementation
from .models.modeling_hmba import HMBAForConditionalGeneration, HMBAModel
from .models.modeling_hmba_vlm import HMBAVLMForConditionalGeneration, HMBAVLMModel
from .models.modeling_mambavl import MambaVLForVideoClassification, MambaVLModel
from .models.modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)
from .models.ops_backends import show_backends
from .models.ops_selective_scan import selective_scan
from .models.pipeline_hmba import VideoTextToTextPipeline
from .models.pretrained_adapter import AdapterPreTrainedModel
from .models.pretrained_mambavl import MambaVLPreTrainedModel
from .models.pretrained_videomamba import VideoMambaPreTrainedModel
from .models.processing_hmba import HMBAProcessor
from .models.processing_hmba_vlm import HMBAVLMProcessor
from .models.processing_mambavl import MambaVLProcessor
from .models.processing_videomamba import VideoMambaProcessor
from .models.retrieving_videomamba import VideoMambaForVideoTextRetrieval
from .models.video_processing_hmba import HMBAVideoProcessor
from .models.video_processing_mambavl import MambaVLVideoProcessor
from .models.video_processing_videomamba import VideoMambaVideoProcessor
from .streaming import FrameError, TimeJump, VideoStream

__all__ = [
    "AdapterState",
    "FrameError",
    "HMBAConfig",
    "HMBAForConditionalGeneration",
    "HMBAModel",
    "HMBAProcessor",
    "HMBAVLMConfig",
    "HMBAVLMForConditionalGeneration",
    "HMBAVLMModel",
    "HMBAVLMProcessor",
    "HMBAVideoProcessor",
    "MambaVLConfig",
    "MambaVLFeaturesConfig",
    "MambaVLForVideoClassification",
    "MambaVLModel",
    "MambaVLMotionformerConfig",
    "MambaVLMotionformerModel",
    "MambaVLProcessor",
    "MambaVLVideoProcessor",
    "MambaVLVisionConfig",
    "MambaVLVisionModel",
    "SourceLimits",
    "TimeJump",
    "VideoDecodeError",
    "VideoMambaConfig",
    "VideoMambaForImageClassification",
    "VideoMambaForPreTraining",
    "VideoMambaForVideoClassification",
    "VideoMambaForVideoTextRetrieval",
    "VideoMambaModel",
    "VideoMambaProcessor",
    "VideoMambaRetrievalConfig",
    "VideoMambaVideoProcessor",
    "VideoStream",
    "VideoTextToTextPipeline",
    "decode_frames",
    "iter_frames",
    "selective_scan",
    "set_linear_implementation",
    "show_backends",
]

AutoConfig.register("hmba", HMBAConfig)
AutoModel.register(HMBAConfig, HMBAModel)
AutoModelForImageTextToText.register(HMBAConfig, HMBAForConditionalGeneration)
AutoModelForMultimodalLM.register(HMBAConfig, HMBAForConditionalGeneration)
AutoVideoProcessor.register(
    HMBAConfig, video_processor_classes={"torchvision": HMBAVideoProcessor, "pil": HMBAVideoProcessor}
)
AutoProcessor.register(HMBAConfig, HMBAProcessor)
AutoConfig.register("hmba_vlm", HMBAVLMConfig)
AutoModel.register(HMBAVLMConfig, HMBAVLMModel)
AutoModelForImageTextToText.register(HMBAVLMConfig, HMBAVLMForConditionalGeneration)
AutoModelForMultimodalLM.register(HMBAVLMConfig, HMBAVLMForConditionalGeneration)
AutoProcessor.register(HMBAVLMConfig, HMBAVLMProcessor)
AutoConfig.register("videomamba", VideoMambaConfig)
AutoModel.register(VideoMambaConfig, VideoMambaModel)
AutoModelForImageClassification.register(VideoMambaConfig, VideoMambaForImageClassification)
AutoModelForPreTraining.register(VideoMambaConfig, VideoMambaForPreTraining)
AutoModelForVideoClassification.register(VideoMambaConfig, VideoMambaForVideoClassification)
AutoConfig.register("mambavl", MambaVLConfig)
AutoModel.register(MambaVLConfig, MambaVLModel)
AutoConfig.register("mambavl_vision", MambaVLVisionConfig)
AutoModel.register(MambaVLVisionConfig, MambaVLVisionModel)
AutoConfig.register("mambavl_motionformer", MambaVLMotionformerConfig)
AutoModel.register(MambaVLMotionformerConfig, MambaVLMotionformerModel)
AutoConfig.register("mambavl_features", MambaVLFeaturesConfig)
AutoModelForVideoClassification.register(MambaVLConfig, MambaVLForVideoClassification)
AutoProcessor.register(MambaVLConfig, MambaVLProcessor)
AutoVideoProcessor.register(
    MambaVLConfig, video_processor_classes={"torchvision": MambaVLVideoProcessor, "pil": MambaVLVideoProcessor}
)
AutoConfig.register("videomamba_retrieval", VideoMambaRetrievalConfig)
AutoModel.register(VideoMambaRetrievalConfig, VideoMambaForVideoTextRetrieval)
AutoProcessor.register(VideoMambaRetrievalConfig, VideoMambaProcessor)
AutoVideoProcessor.register(
    VideoMambaConfig,
    video_processor_classes={"torchvision": VideoMambaVideoProcessor, "pil": VideoMambaVideoProcessor},
)
PIPELINE_REGISTRY.register_pipeline(
    "video-text-to-text",
    pipeline_class=VideoTextToTextPipeline,
    pt_model=(AutoModelForImageTextToText, AutoModelForMultimodalLM),  # type: ignore[arg-type]  # typed for one class alone
    type="multimodal",
)


def _push_model(model: PreTrainedModel, repo_id: str, **options: Any) -> Any:
    """Upload the model as `hmba_hf.hub.push_checkpoint` does; arguments as in `hmba_hf.hub.push_model`."""
    from .hub import push_model  # what loading a model does not need

    return push_model(model, repo_id, **options)


def _push_pipeline(pipeline: VideoTextToTextPipeline, repo_id: str, **options: Any) -> Any:
    """Upload its model and its processor as `hmba_hf.hub.push_checkpoint` does; arguments as in `push_model` there."""
    return _push_model(pipeline.model, repo_id, processor=pipeline.processor, **options)


def _push_processor(processor: Any, repo_id: str, **options: Any) -> Any:
    """Upload the processor; arguments as in `hmba_hf.hub.push_processor`."""
    from .hub import push_processor

    return push_processor(processor, repo_id, **options)


def _check_model_push(model: PreTrainedModel, **options: Any) -> None:
    """Refuse what the model's `push_to_hub` would; arguments as in `hmba_hf.hub.push_model`."""
    from .hub.checkpoints import check_model_push

    check_model_push(model, **options)


def _check_pipeline_push(pipeline: VideoTextToTextPipeline, **options: Any) -> None:
    """Refuse what the pipeline's `push_to_hub` would; arguments as in `hmba_hf.hub.push_model`."""
    _check_model_push(pipeline.model, **options)


def _check_processor_push(processor: Any, **options: Any) -> None:
    """Refuse what the processor's `push_to_hub` would; arguments as in `hmba_hf.hub.push_processor`."""
    from .hub.checkpoints import check_processor_push

    check_processor_push(processor, **options)


# A checkpoint carries the classes without this package, and then pushes as transformers does.
_MODELS: tuple[Any, ...] = (AdapterPreTrainedModel, MambaVLPreTrainedModel, VideoMambaPreTrainedModel)
_PROCESSORS: tuple[Any, ...] = (
    HMBAProcessor,
    HMBAVLMProcessor,
    HMBAVideoProcessor,
    MambaVLProcessor,
    MambaVLVideoProcessor,
    VideoMambaProcessor,
    VideoMambaVideoProcessor,
)
for _class in _MODELS:
    _class.push_to_hub = _push_model
    _class.check_push = _check_model_push
for _class in _PROCESSORS:
    _class.push_to_hub = _push_processor
    _class.check_push = _check_processor_push
VideoTextToTextPipeline.push_to_hub = _push_pipeline  # type: ignore[assignment]  # takes other options
VideoTextToTextPipeline.check_push = _check_pipeline_push  # type: ignore[attr-defined]  # is new
