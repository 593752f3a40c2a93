"""What a frozen vision tower says of frames, kept on disk so that it runs once for each.

A cache is a folder of safetensors files with an `index.json`. It belongs to one tower (a hash of its weights), one way
to sample and prepare frames, and one dtype; each clip is found by a hash of its files or pictures. A cache that is
not exactly the one that training needs is refused.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from ...digests import digest_file
from ...files import differences, read_json_object
from ...models.decoding_containers import LIMITS
from ..bad_samples import READ_ERRORS, UnreadableSample, check_is_of_a_file
from ..loading import RowSamples
from ..samples import Sample, SampleSequence

INDEX = "index.json"
# Options of a video processor and of a tower that no feature depends on.
_IDLE_OPTIONS = ("auto_map", "processor_class", "video_processor_type", "return_metadata")
_IDLE_SETTINGS = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")


@dataclass
class CachedSample(Sample):
    """A sample whose frames have been through the vision tower.

    Args:
        frame_features: `(t, p, d)`, in the place of frames or a video.
        frame_time: seconds at which the current frame is shown, where that is known.
    """

    frame_features: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    frame_time: float | None = None

    def _check_picture(self) -> None:
        if self.frames is not None or self.video is not None or self.frame_features.ndim != 3:
            raise ValueError(f"sample {self.id}: features (frames, patches, channels) alone are wanted")


def feature_key(model: Any, video_processor: Any, dtype: torch.dtype) -> dict[str, str]:
    """Describe everything but the clips that cached features depend on.

    Args:
        model: an `HMBAForConditionalGeneration`.
        video_processor: samples and prepares the frames.
        dtype: in which the tower computes and its features are kept.
    """
    tower, digest = model.model.vision_tower, hashlib.sha256()
    for name, weight in sorted(tower.state_dict().items()):
        values = weight.detach().to("cpu", dtype if weight.is_floating_point() else weight.dtype).contiguous()
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    options = {name: value for name, value in video_processor.to_dict().items() if name not in _IDLE_OPTIONS}
    options |= (video_processor.limits or LIMITS).stated()  # clips beyond them are not there
    settings = {name: value for name, value in tower.config.to_dict().items() if name not in _IDLE_SETTINGS}
    return {
        "vision tower": f"{type(tower).__name__} {digest.hexdigest()}",
        **{f"vision tower's {name}": json.dumps(value, default=str) for name, value in sorted(settings.items())},
        "layer": str(model.config.vision_feature_layer),
        "dtype": str(dtype).removeprefix("torch."),
        **{f"video processor's {name}": json.dumps(value, default=str) for name, value in sorted(options.items())},
    }


def describe_sample(samples: Sequence[Sample], index: int) -> tuple[Sample, str]:
    """Return a sample without its pictures, and a hash of these and of the moment that is asked about."""
    if isinstance(samples, RowSamples):
        sample, files = samples.without_pictures(index)
        parts = [Path(file["path"]) if file.get("bytes") is None else file["bytes"] for file in files]
    else:
        sample = samples[index]
        parts = [_pixels(frame) for frame in sample.frames] if sample.frames is not None else [sample.video]
    digest = hashlib.sha256(f"{len(parts)} files, current at {sample.timestamp}".encode())
    for part in parts:
        if isinstance(part, str | Path):
            digest.update(bytes.fromhex(digest_file(part)))
        else:
            digest.update(hashlib.sha256(part).digest())
    return replace(sample, frames=None, video=b""), digest.hexdigest()


def _pixels(frame: Any) -> bytes:
    return f"{frame.mode} {frame.size} ".encode() + frame.tobytes()


class FeatureCache:
    """Features on disk, found by the hashes of `describe_sample`.

    Args:
        folder: as `FeatureWriter` left it.
        key: of the features that are wanted.

    Raises:
        ValueError: if there is no whole cache, or if it is of another key.
    """

    def __init__(self, folder: str | Path, key: dict[str, str]):
        self.folder = Path(folder)
        if not (self.folder / INDEX).exists():
            raise ValueError(f"a whole cache of features is wanted, got {self.folder} without its {INDEX}")
        index = read_json_object(self.folder / INDEX, key=dict, files=dict, names=dict, unreadable=dict)
        if stale := differences(index["key"], key):
            raise ValueError(f"the features in {self.folder} are stale and are not used: {'; '.join(stale)}")
        for name in index["files"]:
            try:
                with safe_open(self.folder / name, framework="pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise ValueError(
                    f"a whole cache of features is wanted, {name} of {self.folder} is missing or damaged: {error}; "
                    "cache_features.py makes it again"
                ) from error
        self._files = {content: name for name, contents in index["files"].items() for content in contents}
        self.names: dict[str, str] = index["names"]  # of samples, by the hashes of their clips
        self.unreadable: dict[str, str] = index["unreadable"]
        # Of current frames, where they are known; a cache of version 0.1 does not tell.
        self.times: dict[str, float | None] = index.get("times", {})

    def __contains__(self, content: str) -> bool:
        return content in self._files

    def check_times(self) -> None:
        """Raise a `ValueError` if the features were kept without the times of their frames."""
        if not self._files.keys() <= self.times.keys():
            raise ValueError(f"features with times are wanted, got {self.folder} without: make them in a new folder")

    def read(self, content: str) -> torch.Tensor:
        """Read the features of a clip, `(t, p, d)`."""
        with safe_open(self.folder / self._files[content], framework="pt") as file:
            return file.get_tensor(content)


class CachedSamples(SampleSequence):
    """Samples with the features of their frames from a cache.

    Every clip is hashed when this is built, each process a share of them, so that features of a clip that has changed
    since are never used. After that neither clips nor videos are read again.

    Raises:
        ValueError: if a clip is not in the cache.
    """

    def __init__(self, samples: Sequence[Sample], cache: FeatureCache):
        self.cache = cache
        state, described = PartialState(), {}
        share = range(state.process_index, len(samples), state.num_processes)
        for index in tqdm(share, desc="checking the cache", disable=None if state.is_main_process else True):
            described[index] = _described(samples, index)
        for other in gather_object([described]):
            described.update(other)
        self._described = [described[index] for index in range(len(samples))]
        missing = [known for known in self._described if not self._is_known(*known)]
        if missing:
            raise ValueError(self._stale(*missing[0], len(missing)))

    def __len__(self) -> int:
        return len(self._described)

    def read_sample(self, index: int) -> Sample:
        sample, content = self._described[index]
        if isinstance(sample, UnreadableSample):
            raise UnreadableSample(str(sample), sample.name)
        if content not in self.cache:
            raise UnreadableSample(self.cache.unreadable[content], f"sample {sample.id}")
        kept = {f.name: getattr(sample, f.name) for f in fields(Sample)}
        kept.update(frames=None, video=None, timestamp=None)
        return CachedSample(**kept, frame_features=self.cache.read(content), frame_time=self.cache.times.get(content))

    def _is_known(self, sample: Sample | UnreadableSample, content: str) -> bool:
        return isinstance(sample, UnreadableSample) or content in self.cache or content in self.cache.unreadable

    def _stale(self, sample: Any, content: str, count: int) -> str:
        is_changed = sample.id in self.cache.names.values()
        why = "its frames have changed since" if is_changed else "it was not there when the cache was made"
        return (
            f"the features in {self.cache.folder} are stale and are not used: {count} of {len(self)} samples are not "
            f"there, such as {sample.id}: {why}; cache_features.py adds what is missing"
        )


def _described(samples: Sequence[Sample], index: int) -> tuple[Sample | UnreadableSample, str]:
    """Describe a sample, or say why it cannot be read."""
    try:
        return describe_sample(samples, index)
    except READ_ERRORS as error:
        check_is_of_a_file(error)
        name = error.name if isinstance(error, UnreadableSample) else f"sample number {index}"
        return UnreadableSample(str(error) or type(error).__name__, name), ""
