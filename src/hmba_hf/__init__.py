"""H-MBA for Hugging Face: a driving-video language model that loads, answers and fine-tunes like any other.

Importing this package registers its models with the Auto classes and the `video-text-to-text` pipeline.
"""

from .models.configuration_hmba import HMBAConfig
from .models.modeling_hmba import HMBAForConditionalGeneration, HMBAModel
from .models.ops_backends import show_backends
from .models.ops_selective_scan import selective_scan
from .models.pipeline_hmba import VideoTextToTextPipeline
from .models.processing_hmba import HMBAProcessor
from .models.video_decoding_hmba import VideoDecodeError, decode_frames
from .models.video_processing_hmba import HMBAVideoProcessor

__version__ = "0.1.0"
__all__ = [
    "HMBAConfig",
    "HMBAForConditionalGeneration",
    "HMBAModel",
    "HMBAProcessor",
    "HMBAVideoProcessor",
    "VideoDecodeError",
    "VideoTextToTextPipeline",
    "decode_frames",
    "selective_scan",
    "show_backends",
]
