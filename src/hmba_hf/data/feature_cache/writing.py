"""Run a vision tower once over the frames of samples and keep its features for `reading.py`.

`FeatureWriter` is for towers that take frames as the video processor makes them. A model that encodes frames as the
pictures of its base has a writer of its own, which prepares and encodes clips in another way.

Samples are encoded in blocks. The features of a block are one file, which is written whole or not at all and named by
a hash of its clips. A killed run finds its files and adds the others, with the same contents.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ...digests import digest_text
from ...files import (
    differences,
    explained_write_errors,
    held_by_one_run,
    read_json_object,
    remove_unfinished,
    write_json,
    written_whole,
)
from ...messages import logger
from ..bad_samples import READ_ERRORS, BadSamples, check_is_of_a_file
from ..samples import Sample
from .reading import INDEX, describe_sample, picture_key

KEY = "key.json"
_FEATURES = "features-*.safetensors"
_LOCK = ".lock"


@dataclass
class FeatureWriter:
    """Caches the features of the frames of samples; several processes share the work.

    Args:
        folder: of the cache, whose features are kept.
        key: as `feature_key` gives it.
        encode: the tower, from `(1, frames, channels, height, width)` to `(1, frames, p, d)`, unless `encode_clips` is
            another one.
        video_processor: samples and prepares the frames.
        bad: what to do about a sample that cannot be read.
        batch_size: clips that go through the tower at once.
        block_size: samples whose features make one file.
        num_workers: processes that decode.
    """

    folder: Path
    key: dict[str, str]
    encode: Callable[..., Any]
    video_processor: Any
    bad: BadSamples
    batch_size: int = 8
    block_size: int = 256
    num_workers: int = 0
    _is_held: bool = field(default=False, init=False)

    def preparer(self) -> Callable[[Sample], "PreparedClip"]:
        """Return what reads a sample and prepares its frames, in a process of its own."""
        return partial(_prepare_frames, self.video_processor)

    def encode_clips(self, clips: Sequence[Any]) -> Sequence[torch.Tensor]:
        """Return the features of clips, `(t, p, d)` each, of what `preparer` has made of them."""
        return self.encode(torch.cat(list(clips))[None])[0].split(list(map(len, clips)))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the folder for this run, in its main process, so that several calls of `write` belong together.

        Raises:
            ValueError: if another run writes to the folder, or if it holds features of another key or other files in
                the places of ours.
        """
        problem: Exception | None = None
        with ExitStack() as held:
            if PartialState().is_main_process:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    held.enter_context(held_by_one_run(self.folder, self.folder / _LOCK))
                    self._claim()
                except (OSError, ValueError) as error:
                    problem = error
            (problem,) = broadcast_object_list([problem])
            if problem is not None:
                raise problem  # in each process, so that none waits for another
            self._is_held = True
            held.callback(setattr, self, "_is_held", False)
            yield

    def write(self, samples: Sequence[Sample]) -> dict[str, int]:
        """Cache missing features, and try unreadable clips again.

        Returns:
            The number of clips `"made"` now and in the `"cache"`.

        Raises:
            ValueError: as `hold`, or if features are not finite.
            OSError: if a file cannot be written, as on a full disk; the others stay.
        """
        if not self._is_held:
            with self.hold():
                return self.write(samples)
        state = PartialState()
        made = 0
        blocks = []
        for start in range(0, len(samples), self.block_size):
            blocks.append(range(start, min(start + self.block_size, len(samples))))
        mine = blocks[state.process_index :: state.num_processes]
        with tqdm(total=sum(map(len, mine)), desc="caching features", disable=None) as progress:
            for block in mine:
                made += self._write_block(samples, block, progress)
        made = sum(gather_object([made]))
        if state.is_main_process:
            self._write_index()
        state.wait_for_everyone()
        index = read_json_object(self.folder / INDEX, names=dict)
        return {"made": made, "cache": len(index["names"])}

    def _claim(self) -> None:
        """Reserve the folder for features of this key, and delete what killed runs have left."""
        path = self.folder / KEY
        features = list(self.folder.glob(_FEATURES))
        if path.exists():
            different = differences(read_json_object(path), self.key)
            if different:
                raise ValueError(f"{self.folder} holds other features: {'; '.join(different)}. Name another folder")
        else:
            others = [held.name for held in (self.folder / INDEX, *features) if held.exists()]
            if others:
                raise ValueError(f"{self.folder} holds files of another origin, such as {others[0]}: choose another")
            write_json(path, self.key)
        remove_unfinished(self.folder, KEY, INDEX, _FEATURES)
        for held in features:
            try:
                _read_record(held)
            except SafetensorError as error:
                logger.info(f"{held} is damaged and is made again: {error}")
                held.unlink()

    def _write_block(self, samples: Sequence[Sample], block: Sequence[int], progress: Any) -> int:
        """Cache the missing clips of one block, and return their number."""
        described = [_describe(samples, index) for index in block]
        names: dict[str, str] = {}
        first: dict[str, int] = {}
        for index, (name, content, error) in zip(block, described, strict=True):
            if error is not None:
                self.bad.meet(name, error)
                continue
            names[content] = name
            first[content] = index
        digest = digest_text(" ".join(sorted(names)))
        path = self.folder / f"features-{digest[:32]}.safetensors"
        if path.exists():
            tried = _read_record(path)["unreadable"]
            first = {content: index for content, index in first.items() if content in tried}
        progress.update(len(block) - len(first))
        if not first:
            return 0
        tensors, times, unreadable = self._encode_samples(samples, first, progress)
        for content, reason in unreadable.items():
            self.bad.meet(f"sample {names[content]}", ValueError(reason))
        made = len(times)
        if path.exists():
            if not made:
                return 0
            tensors |= load_file(path)
            times |= _read_record(path).get("times", {})
        record = {
            "names": {content: names[content] for content in sorted(tensors.keys() & names.keys())},
            "times": dict(sorted(times.items())),
            "unreadable": unreadable,
        }
        kept = "The files before it are whole: make room and start the same command again"
        with explained_write_errors(path, kept), written_whole(path) as unfinished:
            # `save_file` leaves a file of another name behind when it is killed, and safetensors 0.8 lets its owner
            # alone read what it writes.
            unfinished.write_bytes(save(tensors, metadata={"record": json.dumps(record)}))
        return made

    def _encode_samples(
        self, samples: Sequence[Sample], places: dict[str, int], progress: Any
    ) -> tuple[dict[str, torch.Tensor], dict[str, float | None], dict[str, str]]:
        """Decode clips and run the tower; return features with pictures, times, and errors of unreadable clips."""
        tensors: dict[str, torch.Tensor] = {}
        times: dict[str, float | None] = {}
        unreadable: dict[str, str] = {}
        clips = _PreparedClips(samples, places, self.preparer())
        loader = DataLoader(clips, self.batch_size, num_workers=self.num_workers, collate_fn=list)
        for batch in loader:
            progress.update(len(batch))
            readable: dict[str, PreparedClip] = {}
            for content, clip, error in batch:
                if clip is None:
                    unreadable[content] = error
                else:
                    readable[content] = clip
            if not readable:
                continue
            encoded = self.encode_clips([clip.inputs for clip in readable.values()])
            for (content, clip), found in zip(readable.items(), encoded, strict=True):
                if not torch.isfinite(found).all():
                    raise ValueError(
                        f"features must be finite, got NaN or infinity for sample number {places[content]}"
                    )
                tensors[content] = found.cpu().contiguous()
                times[content] = clip.time
                if clip.picture is not None:
                    tensors[picture_key(content)] = clip.picture
        return tensors, times, unreadable

    def _write_index(self) -> None:
        """List what the files hold, once they are all there."""
        index: dict[str, Any] = {"key": self.key, "files": {}, "names": {}, "times": {}, "unreadable": {}}
        for path in sorted(self.folder.glob(_FEATURES)):
            record = _read_record(path)
            index["files"][path.name] = list(record["names"])
            index["names"].update(record["names"])
            index["times"].update(record.get("times", {}))
            index["unreadable"].update(record["unreadable"])
        write_json(self.folder / INDEX, index)


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        record: dict[str, dict[str, Any]] = json.loads(file.metadata()["record"])
        return record


class PreparedClip(NamedTuple):
    """A clip as a tower takes it.

    Attributes:
        inputs: of the tower, such as pixels, `(t, channels, height, width)`.
        time: of its last frame, where it is known.
        picture: its last frame as the bytes of a PNG, `(n,)`, if prompts depend on it.
    """

    inputs: Any
    time: float | None
    picture: torch.Tensor | None = None


def _prepare_frames(video_processor: Any, sample: Sample) -> PreparedClip:
    options = {"return_tensors": "pt", "return_metadata": True}
    inputs = video_processor([video_of(sample)], timestamp=sample.timestamp, **options)
    return PreparedClip(inputs["pixel_values_videos"][0], inputs["video_metadata"][0].current_time)


def video_of(sample: Sample) -> Any:
    """Return the video of a sample, or its frames, as a processor takes them."""
    if sample.frames is not None:
        return list(sample.frames)
    return sample.video


class _PreparedClips(Dataset):
    """Clips in the order of their hashes, as the tower takes them; an unreadable one is its error."""

    def __init__(self, samples: Sequence[Sample], places: dict[str, int], prepare: Callable[[Sample], PreparedClip]):
        self.samples = samples
        self.places = list(places.items())
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> tuple[str, PreparedClip | None, str]:
        content, index = self.places[number]
        try:
            return content, self.prepare(self.samples[index]), ""
        except READ_ERRORS as error:
            check_is_of_a_file(error)
            return content, None, str(error) or type(error).__name__


def _describe(samples: Sequence[Sample], index: int) -> tuple[str, str, Exception | None]:
    """Return the name and the hash of a sample, or the error of one without a hash."""
    try:
        sample, content = describe_sample(samples, index)
        return sample.id, content, None
    except READ_ERRORS as error:
        check_is_of_a_file(error)
        return f"sample number {index}", "", error
