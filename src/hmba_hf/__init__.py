"""H-MBA for Hugging Face: a driving-video language model that loads, answers and fine-tunes like any other.

Importing this package registers its models with the Auto classes and the `video-text-to-text` pipeline.
"""

from .models.configuration_hmba import HMBAConfig
from .models.layers_adapter_state import AdapterState
from .models.modeling_hmba import HMBAForConditionalGeneration, HMBAModel
from .models.ops_backends import show_backends
from .models.ops_selective_scan import selective_scan
from .models.pipeline_hmba import VideoTextToTextPipeline
from .models.processing_hmba import HMBAProcessor
from .models.video_decoding_hmba import VideoDecodeError, decode_frames, iter_frames
from .models.video_processing_hmba import HMBAVideoProcessor
from .streaming import TimeJump, VideoStream

__version__ = "0.1.0"
__all__ = [
    "AdapterState",
    "HMBAConfig",
    "HMBAForConditionalGeneration",
    "HMBAModel",
    "HMBAProcessor",
    "HMBAVideoProcessor",
    "TimeJump",
    "VideoDecodeError",
    "VideoStream",
    "VideoTextToTextPipeline",
    "decode_frames",
    "iter_frames",
    "selective_scan",
    "show_backends",
]
