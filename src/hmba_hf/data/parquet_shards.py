"""A dataset on disk as numbered parquet files, each of them whole or not there: writing can be killed and resumed."""

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from .samples import import_datasets

SPLITS = ("train", "validation", "test")
STATE_FOLDER = ".preparing"
REPORT_FILE, CARD_FILE = "report.json", "README.md"


@dataclass(frozen=True)
class Dropped:
    """A record that becomes no row, and why."""

    id: str
    reason: str
    detail: str = ""


@dataclass
class ShardResult:
    """What became of the records of one file: how many rows, what was left out, what was done to a row.

    `notes` holds pairs of a record's id and a remark about it.
    """

    rows: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


class ShardFolder:
    """A folder that is being filled with `data/{split}-00000-of-00001.parquet` and so on.

    What is known about files that are complete is kept beside them in a hidden folder. A file takes its place under
    its own name when all of it is on the disk, and it counts once it is there.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.state = self.folder / STATE_FOLDER

    @contextmanager
    def opened(self, identity: dict[str, Any], overwrite: bool = False) -> Iterator["ShardFolder"]:
        """Hold the folder for one run that prepares what `identity` describes.

        Raises:
            ValueError: if another run holds it, or if it holds a dataset of another identity and `overwrite` is false.
        """
        for place in (self.state, self.folder / "data"):
            place.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.state / "lock", timeout=0):
                self._begin(json.loads(json.dumps(identity)), overwrite)
                yield self
        except Timeout as error:
            raise ValueError(f"expected {self.folder} for this run alone, but another one is writing there") from error

    def _begin(self, identity: dict[str, Any], overwrite: bool) -> None:
        manifest = self.state / "manifest.json"
        if overwrite:
            self._clear()
        for partial in self.state.glob("*.partial"):
            partial.unlink()
        if manifest.exists():
            differing = _differences(json.loads(manifest.read_text()), identity)
            if differing:
                raise ValueError(
                    f"{self.folder} holds a dataset prepared from other input or with other options ("
                    f"{'; '.join(differing)}): choose another output_dir, or overwrite it"
                )
        elif any((self.folder / "data").glob("*.parquet")):
            raise ValueError(f"{self.folder} holds parquet files of another origin: choose another, or overwrite them")
        else:
            self.write_json(manifest, identity)

    def _clear(self) -> None:
        files = [self.folder / REPORT_FILE, self.folder / CARD_FILE, *self.state.glob("*.json")]
        for path in [*(self.folder / "data").glob("*.parquet"), *files]:
            path.unlink(missing_ok=True)

    def result(self, name: str) -> ShardResult | None:
        """What became of the records of file `name`; `None` unless the file is complete."""
        record = self.state / f"{name}.json"
        if not (record.exists() and self._parquet(name).exists()):
            return None
        values = json.loads(record.read_text())
        dropped = [Dropped(**item) for item in values["dropped"]]
        return ShardResult(values["rows"], dropped, [(id, note) for id, note in values["notes"]])

    def write(self, name: str, rows: Sequence[dict[str, Any]], result: ShardResult, features: Any) -> None:
        """Write one parquet file and what became of its records."""
        columns = {column: [row[column] for row in rows] for column in features}
        table = import_datasets().Dataset.from_dict(columns, features=features)
        self._parquet(name).unlink(missing_ok=True)
        self.write_json(self.state / f"{name}.json", asdict(result))
        with _no_bars():
            self._write(self._parquet(name), table.to_parquet)

    def _parquet(self, name: str) -> Path:
        return self.folder / "data" / f"{name}.parquet"

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON file, all of it or nothing."""
        self.write_text(path, json.dumps(value, indent=1) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file, all of it or nothing."""
        self._write(path, lambda file: file.write(text.encode()))

    def _write(self, path: Path, fill: Callable[[BinaryIO], Any]) -> None:
        """Fill a file under another name, and give it its own when all of it is on the disk."""
        partial = self.state / f"{path.name}.partial"
        try:
            with open(partial, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(
                    error.errno,
                    f"no space left for {path.name}; the files that are complete stay, and the same command goes on "
                    "from there once there is space",
                    str(self.folder),
                ) from error
            raise


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Say where two JSON values differ, as `name: old, now new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{name} {key}".strip())]
    return [] if old == new else [f"{name}: {old}, now {new}"]


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep `datasets` from showing a bar for each file beside that of the whole run."""
    datasets = import_datasets()
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
