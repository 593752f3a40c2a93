"""Register the families with the Auto classes and the pipeline; the one file here that no checkpoint carries."""

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
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_hmba import HMBAConfig
from .configuration_hmba_vlm import HMBAVLMConfig
from .configuration_mambavl import (
    MambaVLConfig,
    MambaVLFeaturesConfig,
    MambaVLMotionformerConfig,
    MambaVLVisionConfig,
)
from .configuration_videomamba import VideoMambaConfig, VideoMambaRetrievalConfig
from .encoding_mambavl import MambaVLMotionformerModel, MambaVLVisionModel
from .modeling_hmba import HMBAForConditionalGeneration, HMBAModel
from .modeling_hmba_vlm import HMBAVLMForConditionalGeneration, HMBAVLMModel
from .modeling_mambavl import MambaVLForVideoClassification, MambaVLModel
from .modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)
from .pipeline_hmba import VideoTextToTextPipeline
from .processing_hmba import HMBAProcessor
from .processing_hmba_vlm import HMBAVLMProcessor
from .processing_mambavl import MambaVLProcessor
from .processing_videomamba import VideoMambaProcessor
from .retrieving_videomamba import VideoMambaForVideoTextRetrieval
from .video_processing_hmba import HMBAVideoProcessor
from .video_processing_mambavl import MambaVLVideoProcessor
from .video_processing_videomamba import VideoMambaVideoProcessor

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
    pt_model=(AutoModelForImageTextToText, AutoModelForMultimodalLM),  # type: ignore[arg-type]
    type="multimodal",
)
