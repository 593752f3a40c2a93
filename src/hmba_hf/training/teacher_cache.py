"""What a frozen teacher tells about clips, kept on disk so that it looks at each of them once.

A cache is a folder with a file for each clip. It belongs to one teacher (a hash of its weights), its layers and one
dtype. A clip is known by a hash of its pixels, so that another crop, size or flip is another clip, and nothing in a
cache is ever stale.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..files import differences, explained_write_errors, read_json_object, write_json, written_whole
from ..messages import logger
from .clip_teacher import ClipTeacher, TeacherOutput

KEY = "key.json"


def digest_clip(pixel_values: Tensor) -> str:
    """Return the SHA-256 of the shape and the pixels of a clip, `(t, channels, height, width)`, in hexadecimal."""
    values = pixel_values.detach().to("cpu").contiguous()
    digest = hashlib.sha256(f"{tuple(values.shape)} {values.dtype}".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class TeacherCache:
    """A folder that keeps what a teacher tells about clips; several processes may share it.

    Args:
        folder: of the cache, made if it is not there.
        key: of the teacher, as `ClipTeacher.key` gives it.

    Raises:
        ValueError: if the folder holds features of another key.
        OSError: if it cannot be made or written to.
    """

    def __init__(self, folder: str | Path, key: Mapping[str, str]):
        self.folder = Path(folder)
        path = self.folder / KEY
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, dict(key))
        if different := differences(read_json_object(path), dict(key)):
            raise ValueError(f"{self.folder} holds other features: {'; '.join(different)}. Name another folder")

    def look(self, teacher: ClipTeacher, pixel_values_videos: Tensor, digests: Sequence[str]) -> TeacherOutput:
        """Return what a teacher tells about clips; it looks at them if one of them is new.

        All of them go through it together then, since numbers may depend on the size of a batch in their last digits.

        Args:
            teacher: that the cache is for.
            pixel_values_videos: `(b, t, channels, height, width)`.
            digests: of the clips, as `digest_clip` gives them.

        Raises:
            OSError: if a file cannot be written, as on a full disk; the others stay.
        """
        held = [self.read(digest) for digest in digests]
        if any(found is None for found in held):
            output = teacher(pixel_values_videos)
            for number, digest in enumerate(digests):
                if held[number] is None:
                    told = TeacherOutput(output.features[:, number].cpu(), output.attention[number].cpu())
                    self.write(digest, told)
                    held[number] = told
        known = [found for found in held if found is not None]
        features = torch.stack([found.features for found in known], dim=1)
        attention = torch.stack([found.attention for found in known])
        device = pixel_values_videos.device
        return TeacherOutput(features.to(device), attention.to(device))

    def read(self, digest: str) -> TeacherOutput | None:
        """Read what is kept of a clip, features `(k, 1 + t * p, c)` and attention `(t * p,)`; `None` for nothing."""
        path = self._path(digest)
        if not path.exists():
            return None
        try:
            return TeacherOutput(**load_file(path))
        except (SafetensorError, TypeError) as error:  # the latter for other tensors than these
            logger.info(f"{path} is damaged and is made again: {error}")
            return None

    def write(self, digest: str, told: TeacherOutput) -> None:
        """Keep what is told of a clip, whole or not at all."""
        path = self._path(digest)
        tensors = {name: tensor.contiguous() for name, tensor in told._asdict().items()}
        kept = "The files before it are whole: make room and start the same command again"
        with explained_write_errors(path, kept):
            path.parent.mkdir(exist_ok=True)
            with written_whole(path) as unfinished:
                unfinished.write_bytes(save(tensors))

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.safetensors"
