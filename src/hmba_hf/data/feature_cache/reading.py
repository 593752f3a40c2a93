"""Features of a frozen vision tower, kept on disk so that it runs once for each frame.

A cache is a folder of safetensors files with an `index.json`. It belongs to one tower (a hash of its weights), one way
to sample and prepare frames, and one dtype. A hash of its files or pictures identifies a clip. Training refuses any
other cache than the exact one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from ...digests import digest_file
from ...files import differences, read_json_object
from ...models.decoding_stills import read_picture, upright_rgb
from ..bad_samples import READ_ERRORS, UnreadableSample, check_is_of_a_file
from ..loading import RowSamples
from ..samples import Sample, SampleSequence

INDEX = "index.json"
_PLAIN_MODES = ("L", "RGB", "RGBA")  # whose bytes say all that an upright picture shows


@dataclass
class CachedSample(Sample):
    """A sample with the features of its frames instead of the frames.

    Args:
        frame_features: `(t, p, d)`, in the place of frames or a video.
        frame_time: seconds at which the current frame is shown, where known.
        picture: the current frame, if prompts depend on it.
    """

    frame_features: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    frame_time: float | None = None
    picture: Image.Image | None = None

    def _check_picture(self) -> None:
        if self.frames is not None or self.video is not None or self.frame_features.ndim != 3:
            raise ValueError(f"sample {self.id} must have features (frames, patches, channels) alone")


def describe_sample(samples: Sequence[Sample], index: int) -> tuple[Sample, str]:
    """Return a sample without its pictures, and a hash of these and of the time of the current frame."""
    parts: list[Any] = []
    if isinstance(samples, RowSamples):
        sample, files = samples.without_pictures(index)
        for file in files:
            if file.get("bytes") is None:
                parts.append(Path(file["path"]))
            else:
                parts.append(file["bytes"])
    else:
        sample = samples[index]
        if sample.frames is None:
            parts.append(sample.video)
        else:
            parts += [_pixels(frame) for frame in sample.frames]
    digest = hashlib.sha256(f"{len(parts)} files, current at {sample.timestamp}".encode())
    for part in parts:
        if isinstance(part, str | Path):
            digest.update(bytes.fromhex(digest_file(part)))
        else:
            digest.update(hashlib.sha256(part).digest())
    return replace(sample, frames=None, video=b""), digest.hexdigest()


def _pixels(frame: Any) -> bytes:
    if frame.mode not in _PLAIN_MODES or frame.info.get("transparency") is not None:
        frame = upright_rgb(frame)  # a palette, for one, is no part of the bytes
    return f"{frame.mode} {frame.size} ".encode() + frame.tobytes()


def picture_key(content: str) -> str:
    """Name the tensor of a clip's current frame, for the hash of the clip."""
    return f"{content} picture"


class FeatureCache:
    """Features on disk, found by the hashes of `describe_sample`.

    Args:
        folder: as `FeatureWriter` has written it.
        key: of the wanted features.

    Raises:
        ValueError: if there is no whole cache, or if it has another key.
    """

    def __init__(self, folder: str | Path, key: dict[str, str]):
        self.folder = Path(folder)
        if not (self.folder / INDEX).exists():
            raise ValueError(f"a cache of features must be whole, got {self.folder} without its {INDEX}")
        index = read_json_object(self.folder / INDEX, key=dict, files=dict, names=dict, unreadable=dict)
        stale = differences(index["key"], key)
        if stale:
            raise ValueError(f"the features in {self.folder} are stale and are not used: {'; '.join(stale)}")
        for name in index["files"]:
            try:
                with safe_open(self.folder / name, framework="pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise ValueError(
                    f"a cache of features must be whole, got {name} of {self.folder} missing or damaged: {error}; "
                    "`hmba cache-features` makes it again"
                ) from error
        self._files: dict[str, str] = {}
        for name, contents in index["files"].items():
            self._files.update(dict.fromkeys(contents, name))
        self.names: dict[str, str] = index["names"]  # of samples, by the hashes of their clips
        self.unreadable: dict[str, str] = index["unreadable"]
        # Of current frames, where known; a cache of version 0.1 has none.
        self.times: dict[str, float | None] = index.get("times", {})

    def __contains__(self, content: str) -> bool:
        return content in self._files

    def check_times(self) -> None:
        """Raise a `ValueError` if the features were kept without the times of their frames."""
        if not self._files.keys() <= self.times.keys():
            raise ValueError(f"features must have times, got {self.folder} without: make them in a new folder")

    def read(self, content: str) -> torch.Tensor:
        """Read the features of a clip, `(t, p, d)`."""
        with safe_open(self.folder / self._files[content], framework="pt") as file:
            return file.get_tensor(content)

    def read_picture(self, content: str) -> Image.Image | None:
        """Read the current frame of a clip; `None` where prompts do not depend on it."""
        name = picture_key(content)
        with safe_open(self.folder / self._files[content], framework="pt") as file:
            if name not in file.keys():  # noqa: SIM118 - it is no mapping
                return None
            encoded = file.get_tensor(name)
        return read_picture(encoded.numpy().tobytes())


class CachedSamples(SampleSequence[Any]):
    """Samples with the features of their frames from a cache.

    Every clip is hashed when this is built, each process a share of them, so that features of a changed clip are never
    used. After that neither clips nor videos are read again.

    Raises:
        ValueError: if a clip is not in the cache.
    """

    def __init__(self, samples: Sequence[Sample], cache: FeatureCache):
        self.cache = cache
        state = PartialState()
        described = {}
        share = range(state.process_index, len(samples), state.num_processes)
        is_hidden = None if state.is_main_process else True
        for index in tqdm(share, desc="checking the cache", disable=is_hidden):
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
        return CachedSample(
            **kept,
            frame_features=self.cache.read(content),
            frame_time=self.cache.times.get(content),
            picture=self.cache.read_picture(content),
        )

    def _is_known(self, sample: Sample | UnreadableSample, content: str) -> bool:
        return isinstance(sample, UnreadableSample) or content in self.cache or content in self.cache.unreadable

    def _stale(self, sample: Any, content: str, count: int) -> str:
        is_changed = sample.id in self.cache.names.values()
        why = "its frames have changed since" if is_changed else "it was not there when the cache was made"
        return (
            f"the features in {self.cache.folder} are stale and are not used: {count} of {len(self)} samples are not "
            f"there, such as {sample.id}: {why}; `hmba cache-features` adds what is missing"
        )


def _described(samples: Sequence[Sample], index: int) -> tuple[Sample | UnreadableSample, str]:
    """Describe a sample, or return the error of an unreadable one."""
    try:
        return describe_sample(samples, index)
    except READ_ERRORS as error:
        check_is_of_a_file(error)
        name = error.name if isinstance(error, UnreadableSample) else f"sample number {index}"
        return UnreadableSample(str(error) or type(error).__name__, name), ""
