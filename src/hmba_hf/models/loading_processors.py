"""The processor of a vision-language model of transformers, of which only texts and pictures are used.

Many such processors have a part for videos that transformers builds only with torchvision. It is not used here, so
where torchvision is missing `AbsentVideoProcessor` holds its place and its settings.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from .loading_checkpoints import file_options, read_settings  # first: it refuses an old transformers

# isort: split
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.image_processing_backends import PilBackend
from transformers.models.auto.processing_auto import (
    PROCESSOR_MAPPING,
    processor_class_from_name,
)
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

# Files that name the class of a processor; the first one counts.
_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_PARTS = {
    "tokenizer": AutoTokenizer,
    "image_processor": AutoImageProcessor,
    "feature_extractor": AutoFeatureExtractor,
}


class AbsentVideoProcessor(VideoProcessorMixin, PilBackend):
    """The place of a video processor in a base's processor, where torchvision is missing: settings, saved as loaded.

    Args:
        settings: of the video processor.
    """

    model_input_names = ["pixel_values_videos"]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = dict(settings)

    def preprocess(self, videos: Any, **kwargs: Any) -> Any:
        """Refuse videos: they come to a base as pictures."""
        kind = self.settings.get("video_processor_type", "the base's video processor")
        raise ImportError(f"{kind} needs torchvision: Run `pip install torchvision`")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return dict(self.settings)


def load_base_processor(checkpoint: Any, **options: Any) -> Any:
    """Load the processor of a vision-language model, as `AutoProcessor` does where all packages are there.

    Args:
        checkpoint: folder or Hub id.
        options: of `AutoProcessor.from_pretrained`.

    Raises:
        ValueError: if the checkpoint has no processor of pictures and texts.
    """
    if is_torchvision_available() or options.get("trust_remote_code"):
        return AutoProcessor.from_pretrained(checkpoint, **options)
    processor_class = _processor_class(checkpoint, options)
    if processor_class is None:
        raise ValueError(f"{checkpoint} must have a processor of pictures and texts, got no name of its class")
    settings, others = ProcessorMixin.get_processor_dict(checkpoint, **options)
    videos = settings.get("video_processor") or read_settings(
        checkpoint, "video_preprocessor_config.json", **file_options(options)
    )
    parts: dict[str, Any] = {}
    for name in processor_class.get_attributes():
        if name == "video_processor":
            parts[name] = AbsentVideoProcessor(videos)
        else:
            parts[name] = _part(name).from_pretrained(checkpoint, **options)
    return _build(processor_class, parts, {**settings, **others})


def restore_base_processor(checkpoint: Any, settings: Mapping[str, Any], **options: Any) -> Any:
    """Load a base's processor that was saved within another one.

    Args:
        checkpoint: folder or Hub id, with the files of its tokenizer and of its image processor in the root.
        settings: all else of it, its `to_dict()`, and its `chat_template`.
        options: of `from_pretrained`.

    Raises:
        ValueError: if transformers has no class of a name in the settings.
    """
    processor_class = processor_class_from_name(str(settings.get("processor_class")))
    if processor_class is None:
        raise ValueError(
            f"the base of {checkpoint} must have a processor of transformers, got {settings.get('processor_class')!r}"
        )
    parts: dict[str, Any] = {}
    for name in processor_class.get_attributes():
        held = settings.get(name) or {}
        if name in ("tokenizer", "image_processor"):
            parts[name] = _part(name).from_pretrained(checkpoint, **options)
        elif name == "video_processor" and not is_torchvision_available():
            parts[name] = AbsentVideoProcessor(held)
        else:
            parts[name] = _restore_part(name, held)
    return _build(processor_class, parts, settings)


def _processor_class(checkpoint: Any, options: Mapping[str, Any]) -> Any:
    """Find the class of a checkpoint's processor, as `AutoProcessor` does; `None` if nothing names it."""
    files = file_options(options)
    for file in _FILES:
        name = read_settings(checkpoint, file, **files).get("processor_class")
        if name is not None:
            return processor_class_from_name(name)
    config = AutoConfig.from_pretrained(checkpoint, **files)
    return PROCESSOR_MAPPING.get(type(config), None)


def _part(name: str) -> Any:
    """Return the Auto class of a part of a processor."""
    if name not in _PARTS:
        raise ValueError(f"the parts of a base's processor must be among {sorted(_PARTS)}, got {name}")
    return _PARTS[name]


def _restore_part(name: str, settings: Mapping[str, Any]) -> Any:
    """Build a part of a processor from its settings, which name its class."""
    kind = settings.get(f"{name}_type")
    if kind is None:
        raise ValueError(f"the settings of {name} must name its class as {name}_type, got {sorted(settings)}")
    return ProcessorMixin.get_possibly_dynamic_module(kind)(**settings)


def _build(processor_class: Any, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Build a processor of parts; only the check of an absent video processor's class is left out."""
    accepted = inspect.signature(processor_class.__init__).parameters
    options = {name: value for name, value in settings.items() if name in accepted and name not in parts}
    processor = processor_class.__new__(processor_class)
    check = processor.check_argument_for_proper_class

    def check_others(name: str, part: Any) -> Any:
        if isinstance(part, AbsentVideoProcessor):
            return AbsentVideoProcessor
        return check(name, part)

    processor.check_argument_for_proper_class = check_others
    try:
        processor.__init__(**parts, **options)
    finally:
        del processor.check_argument_for_proper_class
    return processor


__all__ = ["AbsentVideoProcessor", "load_base_processor", "restore_base_processor"]
