"""Video processor of VideoMamba, which reads clips, and the image processor of its models of pictures."""

from .reading_clips import ClipVideoKwargs, ClipVideoProcessor, cut_view  # first: it checks the version

# isort: split
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

_SHOWN = 0.875  # of a picture's short side
VideoMambaVideoProcessorKwargs = ClipVideoKwargs


class VideoMambaVideoProcessor(ClipVideoProcessor):
    """Turn videos into `pixel_values_videos`, `(n * views, num_frames, 3, h, w)`, as `ClipVideoProcessor` does.

    Source: evaluation of OpenGVLab/VideoMamba, `video_sm/datasets`.
    Differs: frames are resized by Pillow's bilinear filter, which averages where it shrinks.
    """

    num_frames = 8
    auto_map_entry = "video_processing_videomamba.VideoMambaVideoProcessor"
    # Makes this file and its siblings travel with a saved processor.
    _auto_class = "AutoVideoProcessor"


def image_processor_of(image_size: int = 224) -> ViTImageProcessorPil:
    """Return transformers' image processor as a `VideoMambaForImageClassification` needs it, to be saved beside it.

    The short side is resized to `image_size / 0.875`, bicubically, and the middle square is taken.

    Source: evaluation of OpenGVLab/VideoMamba, `image_sm/datasets.py`.
    """
    return ViTImageProcessorPil(
        resample=PILImageResampling.BICUBIC,
        size={"shortest_edge": int(image_size / _SHOWN)},
        do_center_crop=True,
        crop_size={"height": image_size, "width": image_size},
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
        do_convert_rgb=True,
    )


__all__ = ["VideoMambaVideoProcessor", "VideoMambaVideoProcessorKwargs", "cut_view", "image_processor_of"]
