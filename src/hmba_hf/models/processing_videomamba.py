"""Videos and texts as inputs of a VideoMamba beside a BERT."""

from typing import Any

from .reading_texts import VideoTextProcessor  # first: it refuses an old transformers

# isort: split
from transformers.feature_extraction_utils import BatchFeature

from .video_processing_videomamba import VideoMambaVideoProcessor

MAX_TEXT_LENGTH = 32  # tokens, of the released model


class VideoMambaProcessor(VideoTextProcessor):
    """Turn videos and texts into inputs of `VideoMambaForVideoTextRetrieval`.

    Args:
        video_processor: a `VideoMambaVideoProcessor`.
        tokenizer: of the BERT.
        max_text_length: tokens of a text; longer ones are cut.
    """

    _auto_class = "AutoProcessor"
    own_video_processor = VideoMambaVideoProcessor
    auto_map_entry = "processing_videomamba.VideoMambaProcessor"

    def __init__(self, video_processor: Any = None, tokenizer: Any = None, max_text_length: int = MAX_TEXT_LENGTH):
        super().__init__(video_processor, tokenizer)
        if max_text_length < 1:
            raise ValueError(f"max_text_length must be at least 1, got {max_text_length}")
        self.max_text_length = max_text_length

    def __call__(
        self, videos: Any = None, text: Any = None, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Process videos, texts or both.

        Args:
            videos: as `VideoMambaVideoProcessor` takes them.
            text: one text, or a list of them.
            return_tensors: `"pt"` or `"np"`.
            kwargs: of the video processor.

        Returns:
            `pixel_values_videos` of videos; `input_ids` and `attention_mask` of texts, padded to the longest.

        Raises:
            ValueError: if there is neither, or as the video processor.
        """
        if videos is None and text is None:
            raise ValueError("videos or text must be given, got neither")
        if videos is None and kwargs:
            raise ValueError(f"options must be of videos, got {sorted(kwargs)} without videos")
        features: dict[str, Any] = {}
        if videos is not None:
            features.update(self.video_processor(videos, return_tensors=return_tensors, **kwargs))
        if text is not None:
            tokens = self.tokenizer(
                text,
                padding=True,
                truncation=True,
                max_length=self.max_text_length,
                return_token_type_ids=False,
                return_tensors=return_tensors,
            )
            features.update(tokens)
        return BatchFeature(features, tensor_type=None)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs."""
        return ["pixel_values_videos", "input_ids", "attention_mask"]
