"""Cached features of a model's frames: how they are made, and what they depend on."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...data.feature_cache.writing import FeatureWriter, PreparedClip, video_of
from ...data.samples import Sample
from ...digests import digest_tensors, digest_weights
from ...families import family_of
from ...models.batching_hmba_vlm import as_picture

# Options of a processor, and of a tower or a base, on which no feature depends.
_IDLE_OPTIONS = ("auto_map", "processor_class", "video_processor_type", "image_processor_type", "return_metadata")
_IDLE_SETTINGS = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")


class TowerFeatures:
    """Features of a vision tower, which takes frames as the video processor makes them.

    Args:
        model: an `HMBAForConditionalGeneration`.
        processor: of the model.
    """

    def __init__(self, model: Any, processor: Any):
        self.model = model
        self.processor = processor

    @property
    def dtype(self) -> torch.dtype:
        """Of the computation and the features."""
        return self.model.model.vision_tower.dtype

    def parameters(self) -> list[Tensor]:
        """Return the parameters that the features depend on."""
        return list(self._of_part(dict(self.model.named_parameters())).values())

    def _of_part(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return those of a model's weights that encode frames."""
        family = family_of(self.model)
        return {name: weight for name, weight in weights.items() if family.part_of(name) == family.encodes_frames}

    def key(self, dtype: torch.dtype) -> dict[str, str]:
        """Describe all that features in a dtype depend on but the clips."""
        return feature_key(self.model, self.processor.video_processor, dtype)

    def writer(self, **options: Any) -> FeatureWriter:
        """Return what caches the features; `options` are the other ones of `FeatureWriter`."""
        return FeatureWriter(
            key=self.key(self.dtype),
            encode=self.encode,
            video_processor=self.processor.video_processor,
            **options,
        )

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode frames, `(1, frames, channels, height, width)`, to `(1, frames, p, d)`."""
        return self.model.get_frame_features(pixels.to(self.model.device)).to(self.dtype)


class PictureFeatures(TowerFeatures):
    """What the language model of a vision-language model reads of each frame.

    Args:
        model: an `HMBAVLMForConditionalGeneration`.
        processor: of the model.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Of the computation and the features."""
        return self.model.model.base.dtype

    def key(self, dtype: torch.dtype) -> dict[str, str]:
        """Describe all that features in a dtype depend on but the clips."""
        base = self.model.model.base
        settings = base.config.to_dict()
        texts = base.config.get_text_config()
        for name in base.config.sub_configs:
            if getattr(base.config, name, None) is texts:
                del settings[name]
        key = {"base": f"{type(base).__name__} {digest_tensors(self._of_part(self.model.state_dict()), dtype)}"}
        key |= _described("base", settings, _IDLE_SETTINGS)
        key["dtype"] = str(dtype).removeprefix("torch.")
        key |= _described("image processor", self.processor.image_processor.to_dict(), _IDLE_OPTIONS)
        return key | _described_frames(self.processor.video_processor)

    def writer(self, **options: Any) -> FeatureWriter:
        """Return what caches the features; see `TowerFeatures.writer`."""
        return PictureFeatureWriter(
            key=self.key(self.dtype),
            encode=self.encode,
            video_processor=self.processor.video_processor,
            processor=self.processor,
            **options,
        )

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Any]) -> list[Tensor]:  # type: ignore[override]  # of another kind of inputs
        """Encode pictures, and return the rows of each, `(p, d)`, maybe in several pieces."""
        moved = {name: value.to(self.model.device) for name, value in inputs.items()}
        return [rows.to(self.dtype) for rows in self.model.get_frame_features(**moved)]


@dataclass
class PictureFeatureWriter(FeatureWriter):
    """Caches what a language model reads of the frames of samples, and the current frames, which prompts depend on.

    Args:
        processor: makes the inputs of pictures.
    """

    processor: Any = None

    def preparer(self) -> Any:
        """Return what reads a sample and makes the inputs of its frames."""
        return partial(_prepare_pictures, self.processor)

    def encode_clips(self, clips: Sequence[Any]) -> list[Tensor]:
        """Return the features of clips, `(t, p, d)` each; those whose frames are alike are encoded at once."""
        alike: dict[tuple[Any, ...], list[int]] = {}
        for number, (count, inputs) in enumerate(clips):
            alike.setdefault((count, *_layout(inputs)), []).append(number)
        features: dict[int, Tensor] = {}
        for (count, *_), numbers in alike.items():
            together = {}
            for name in clips[numbers[0]][1]:
                together[name] = torch.cat([clips[number][1][name] for number in numbers])
            rows = torch.cat(self.encode(together)).unflatten(0, (len(numbers), count, -1))
            features.update(zip(numbers, rows, strict=True))
        return [features[number] for number in range(len(clips))]


def _layout(inputs: Mapping[str, Tensor]) -> list[Any]:
    """Describe all of image inputs but the colours, so that those alike have as many rows."""
    layout: list[Any] = []
    for name, value in sorted(inputs.items()):
        layout.append((name, tuple(value.shape)))
        if not value.is_floating_point():
            layout.append(value.numpy().tobytes())
    return layout


def _prepare_pictures(processor: Any, sample: Sample) -> PreparedClip:
    arrays, metadata = processor.video_processor.read_clips([[video_of(sample)]], timestamp=sample.timestamp)
    frames = [as_picture(frame) for frame in arrays[0]]
    written = io.BytesIO()
    frames[-1].save(written, format="png")
    picture = torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)
    return PreparedClip((len(frames), processor.frame_inputs(frames)), metadata[0].current_time, picture)


_FEATURES = {"hmba_vlm": PictureFeatures}  # by model type


def frame_features(model: Any, processor: Any) -> TowerFeatures:
    """Return how the features of a model's frames are made."""
    return _FEATURES.get(model.config.model_type, TowerFeatures)(model, processor)


def feature_key(model: Any, video_processor: Any, dtype: torch.dtype) -> dict[str, str]:
    """Describe all that the features of a vision tower depend on but the clips.

    Args:
        model: an `HMBAForConditionalGeneration`.
        video_processor: samples and prepares the frames.
        dtype: of the tower's computation and its features.
    """
    tower = model.model.vision_tower
    key = {"vision tower": f"{type(tower).__name__} {digest_weights(tower, dtype)}"}
    key |= _described("vision tower", tower.config.to_dict(), _IDLE_SETTINGS)
    key["layer"] = str(model.config.vision_feature_layer)
    key["dtype"] = str(dtype).removeprefix("torch.")
    return key | _described_frames(video_processor)


def _described_frames(video_processor: Any) -> dict[str, str]:
    """Describe how frames are sampled and prepared."""
    rules = video_processor.source_rules
    stated = rules["limits"].stated()  # a cache lacks the clips beyond them
    if rules["only_whole"]:
        stated["only_whole"] = True
    return _described("video processor", {**video_processor.to_dict(), **stated}, _IDLE_OPTIONS)


def _described(whose: str, settings: Mapping[str, Any], idle: Sequence[str]) -> dict[str, str]:
    key = {}
    for name, value in sorted(settings.items()):
        if name not in idle:
            key[f"{whose}'s {name}"] = json.dumps(value, default=str)
    return key
