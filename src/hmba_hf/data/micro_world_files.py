"""The micro-world on disk: video files, and parquet files in the schemas of DRAMA and BDD-X.

What is learned on these files says nothing about real roads.
"""

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import av
from PIL import Image

from .micro_world import MicroWorld, MicroWorldConfig
from .samples import bddx_features, drama_features, import_datasets, to_bddx_row, to_drama_row

_ROWS_PER_FILE = 1000


def write_video(target: str | Path | BinaryIO, frames: Sequence[Image.Image], fps: float = 2.0) -> None:
    """Write frames as an MP4 file that shows each of them for `1 / fps` seconds.

    A frame is repeated so that the file has at least ten pictures a second. Sampled at `fps` from its last picture
    backwards it gives the frames back, up to lossy compression. H.264 where PyAV has an encoder for it, else MPEG-4.
    """
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps must be from 0.01 to 1000, got {fps}")
    hold = math.ceil(10 / fps)
    rate = Fraction(fps).limit_denominator(100) * hold
    if not frames or frames[0].width % 2 or frames[0].height % 2:
        raise ValueError(f"expected frames of even width and height, got {[frame.size for frame in frames]}")
    has_h264 = "libx264" in av.codecs_available
    with av.open(str(target) if isinstance(target, Path) else target, "w", format="mp4") as container:
        options = {"crf": "12"} if has_h264 else {"qscale": "2"}
        stream: Any = container.add_stream("libx264" if has_h264 else "mpeg4", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for number in range(len(frames) * hold):
            picture = av.VideoFrame.from_image(frames[number // hold])
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def write_drama(folder: str | Path, config: MicroWorldConfig, sizes: Mapping[str, int]) -> list[Path]:
    """Write clips of the risk task as parquet files in the DRAMA schema, `sizes` clips for each split it names."""
    paths = []
    for split, size in sizes.items():
        world = MicroWorld(config, split, size)
        rows = (to_drama_row(world[index]) for index in range(size))
        paths += _write_parquet(Path(folder), split, size, rows, drama_features())
    return paths


def write_bddx(folder: str | Path, config: MicroWorldConfig, sizes: Mapping[str, int]) -> list[Path]:
    """Write clips of what the ego car does and why as parquet files in the BDD-X schema, with MP4 files inside."""
    paths = []
    for split, size in sizes.items():
        rows = _bddx_rows(MicroWorld(config, split, size))
        paths += _write_parquet(Path(folder), split, size, rows, bddx_features())
    return paths


def _bddx_rows(world: MicroWorld) -> Iterator[dict[str, Any]]:
    for index in range(len(world)):
        sample = world.ego_sample(index)
        file = io.BytesIO()
        write_video(file, sample.frames or (), world.config.fps)
        seconds = world.config.num_frames / world.config.fps
        yield to_bddx_row(replace(sample, frames=None, video=file.getvalue()), start=0.0, end=seconds)


def _write_parquet(folder: Path, split: str, size: int, rows: Iterable[dict], features: Any) -> list[Path]:
    """Write rows as `data/{split}-00000-of-00001.parquet` and so on, the names that `load_dataset(folder)` reads.

    Files of the split that are there from an earlier writing are removed.
    """
    dataset_class = import_datasets().Dataset
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for old in (folder / "data").glob(f"{split}-*-of-*.parquet"):
        old.unlink()
    remaining, paths = iter(rows), []
    number_of_files = -(-size // _ROWS_PER_FILE)
    for number in range(number_of_files):
        path = folder / "data" / f"{split}-{number:05d}-of-{number_of_files:05d}.parquet"
        dataset_class.from_list(list(islice(remaining, _ROWS_PER_FILE)), features=features).to_parquet(path)
        paths.append(path)
    return paths
