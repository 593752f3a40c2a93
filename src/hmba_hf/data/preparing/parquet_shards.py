"""A dataset on disk as numbered parquet files, each whole or absent, so that writing can be killed and resumed."""

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ...files import held_by_one_run, read_json_object
from ..samples import import_datasets

SPLITS = ("train", "validation", "test")
STATE_FOLDER = ".preparing"
REPORT_FILE = "report.json"
CARD_FILE = "README.md"
LICENSE_FILE = "LICENSE"

_BYTES_PER_PART = 1 << 29  # an Arrow array of bytes ends at 2 GiB


@dataclass(frozen=True)
class Dropped:
    """An entry that becomes no row, and why."""

    id: str
    reason: str
    detail: str = ""


@dataclass
class ShardResult:
    """The outcome of the entries of one file: the number of rows, dropped entries, and notes.

    `notes` holds pairs of an entry's id and a note about its row.
    """

    rows: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


class ShardFolder:
    """A folder in progress with `data/{split}-00000-of-00001.parquet` and so on.

    A hidden folder beside the files holds the results of complete ones. A file takes its own name once all of it is on
    the disk, and counts from then on. The report exists while all files are complete.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.state = self.folder / STATE_FOLDER

    @contextmanager
    def opened(self, identity: dict[str, Any], overwrite: bool = False) -> Iterator["ShardFolder"]:
        """Lock the folder for one run that prepares the dataset of `identity`.

        Raises:
            ValueError: if another run has it, or if it holds a dataset of another identity, or files of another origin
                in the places of ours, and `overwrite` is false.
        """
        if not overwrite:
            self._check_origin()  # before anything is in it that makes an unfinished dataset of it
        for place in (self.state, self.folder / "data"):
            place.mkdir(parents=True, exist_ok=True)
        with held_by_one_run(self.folder, self.state / "lock"):
            self._begin(json.loads(json.dumps(identity)), overwrite)
            yield self

    @property
    def _manifest(self) -> Path:
        return self.state / "manifest.json"

    def _check_origin(self) -> None:
        others = [path.relative_to(self.folder).as_posix() for path in self._own_files() if path.exists()]
        if others and not self._manifest.exists():
            raise ValueError(
                f"{self.folder} holds files of another origin, such as {others[0]}: choose another, or overwrite them"
            )

    def _own_files(self) -> list[Path]:
        files = [self.folder / name for name in (REPORT_FILE, CARD_FILE, LICENSE_FILE)]
        return [*files, *(self.folder / "data").glob("*.parquet")]

    def _begin(self, identity: dict[str, Any], overwrite: bool) -> None:
        if overwrite:
            self._clear()
        for partial in self.state.glob("*.partial"):
            partial.unlink()
        if self._manifest.exists():
            differing = _differences(read_json_object(self._manifest), identity)
            if differing:
                raise ValueError(
                    f"{self.folder} holds a dataset prepared from other input or with other options ("
                    f"{'; '.join(differing)}): choose another output_dir, or overwrite it"
                )
        else:
            self.write_json(self._manifest, identity)

    def _clear(self) -> None:
        for path in [*self._own_files(), *self.state.glob("*.json")]:
            path.unlink(missing_ok=True)

    def result(self, name: str) -> ShardResult | None:
        """Return the outcome of the entries of file `name`; `None` unless the file is complete."""
        outcome = self.state / f"{name}.json"
        if not (outcome.exists() and self._parquet(name).exists()):
            return None
        values = read_json_object(outcome, rows=int, dropped=list, notes=list)
        try:
            dropped = [Dropped(**item) for item in values["dropped"]]
            notes = [(id, note) for id, note in values["notes"]]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{outcome} must list dropped entries and notes, got {error}: overwrite it") from error
        return ShardResult(values["rows"], dropped, notes)

    def write(self, name: str, rows: Sequence[dict[str, Any]], result: ShardResult, features: Any) -> None:
        """Write one parquet file and the outcome of its entries; an earlier file stays until both are on the disk."""
        datasets = import_datasets()
        tables = []
        for part in _parts(rows):
            columns = {column: [row[column] for row in part] for column in features}
            tables.append(datasets.Dataset.from_dict(columns, features=features))
        table = datasets.concatenate_datasets(tables)
        parquet = self._parquet(name)
        outcome = self.state / f"{name}.json"
        with (
            _no_bars(),
            self._filled(parquet, table.to_parquet) as new_parquet,
            self._filled(outcome, lambda file: file.write(_json(asdict(result)))) as new_outcome,
        ):
            (self.folder / REPORT_FILE).unlink(missing_ok=True)
            parquet.unlink(missing_ok=True)
            os.replace(new_outcome, outcome)
            os.replace(new_parquet, parquet)

    def _parquet(self, name: str) -> Path:
        return self.folder / "data" / f"{name}.parquet"

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON file, all of it or nothing."""
        self._write(path, _json(value))

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file, all of it or nothing."""
        self._write(path, text.encode())

    def _write(self, path: Path, content: bytes) -> None:
        with self._filled(path, lambda file: file.write(content)) as partial:
            os.replace(partial, path)

    @contextmanager
    def _filled(self, path: Path, fill: Callable[[BinaryIO], Any]) -> Iterator[Path]:
        """Fill a file under another name, and yield that name once all of it is on the disk."""
        partial = self.state / f"{path.name}.partial"
        try:
            with self._explained_full_disk(path.name), open(partial, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def _explained_full_disk(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                error.errno,
                f"no space left for {name}; the files that are complete stay, and the same command without "
                "--overwrite resumes once there is space",
                str(self.folder),
            ) from error


def check_finished(folder: str | Path) -> None:
    """Raise a `ValueError` if a folder holds a dataset whose preparation is running or was stopped."""
    if (Path(folder) / STATE_FOLDER).exists() and not (Path(folder) / REPORT_FILE).is_file():
        raise ValueError(
            f"{folder} must hold a finished dataset, got an unfinished one: run the command that prepares it again"
        )


def _parts(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """Part rows so that their media stay below the limit of an Arrow array."""
    first = 0
    size = 0
    for number, row in enumerate(rows):
        own = _count_bytes(row)
        size += own
        if size > _BYTES_PER_PART and number > first:
            yield rows[first:number]
            first = number
            size = own
    yield rows[first:]


def _count_bytes(value: Any) -> int:
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_count_bytes, value.values()))
    if isinstance(value, list):
        return sum(map(_count_bytes, value))
    return 0


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Write where two JSON values differ, as `name: old, now new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted({*old, *new}):
            lines += _differences(old.get(key), new.get(key), f"{name} {key}".strip())
        return lines
    if old == new:
        return []
    return [f"{name}: {old}, now {new}"]


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the bars of `datasets` for single files, beside that of the whole run."""
    datasets = import_datasets()
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
