"""The micro-world on disk: parquet files in the schemas of DRAMA and BDD-X.

Results on these files do not transfer to real roads.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..clips import write_video
from ..samples import bddx_features, drama_features, import_datasets, to_bddx_row, to_drama_row
from .world import MicroWorld, MicroWorldConfig

_ROWS_PER_FILE = 1000


def write_drama(folder: str | Path, config: MicroWorldConfig, sizes: Mapping[str, int]) -> list[Path]:
    """Write clips of the risk task as parquet files in the DRAMA schema, `sizes` clips for each split it names."""
    paths = []
    for split, size in sizes.items():
        world = MicroWorld(config, split, size)
        rows = (to_drama_row(world[index]) for index in range(size))
        paths += _write_parquet(Path(folder), split, size, rows, drama_features())
    return paths


def write_bddx(folder: str | Path, config: MicroWorldConfig, sizes: Mapping[str, int]) -> list[Path]:
    """Write clips of the ego task as parquet files in the BDD-X schema, with MP4 files inside."""
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

    Earlier files of the split are removed.
    """
    dataset_class = import_datasets().Dataset
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for old in (folder / "data").glob(f"{split}-*-of-*.parquet"):
        old.unlink()
    remaining = iter(rows)
    paths = []
    number_of_files = -(-size // _ROWS_PER_FILE)
    for number in range(number_of_files):
        path = folder / "data" / f"{split}-{number:05d}-of-{number_of_files:05d}.parquet"
        dataset_class.from_list(list(islice(remaining, _ROWS_PER_FILE)), features=features).to_parquet(path)
        paths.append(path)
    return paths
