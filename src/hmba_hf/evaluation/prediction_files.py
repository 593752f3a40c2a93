"""Files of predictions, which several processes write and which survive a kill.

A folder of predictions holds `recipe.json`, the options that they depend on. While it grows, it holds one file
`predictions-*.jsonl` of each process and run. In the end it holds `predictions.jsonl`, a line for each sample in the
order of the dataset.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..files import (
    check_fields,
    differences,
    explained_write_errors,
    parse_json,
    read_json_object,
    remove_unfinished,
    write_json,
    written_whole,
)

# The files of unfinished predictions; version 0.1 called them answers.
_UNFINISHED = ("answers-*.jsonl", "predictions-*.jsonl")


class PredictionFolder:
    """The files of one set of predictions, which any number of processes write at once."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.recipe_file = self.folder / "recipe.json"
        self.predictions_file = self.folder / "predictions.jsonl"
        self._own_file = (
            self.folder / f"predictions-{time.time_ns():020}-{uuid4().hex}.jsonl"
        )  # in the order of the runs

    def claim(self, recipe: dict[str, Any], overwrite: bool = False) -> None:
        """Take the folder for the predictions of a recipe.

        Raises:
            ValueError: if it holds those of another one and is not to be overwritten.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.folder, self.recipe_file.name, self.predictions_file.name)
        held = self._unfinished_files()
        if self.predictions_file.exists():
            held.append(self.predictions_file)
        there = {}
        if self.recipe_file.exists():
            there = read_json_object(self.recipe_file)
        if held and there != recipe:
            if not overwrite:
                raise ValueError(
                    f"{self.folder} holds predictions of another recipe: {', '.join(differences(there, recipe))}; "
                    "choose another output_dir, or pass overwrite"
                )
            for path in held:
                path.unlink()
        write_json(self.recipe_file, recipe)

    def read(self) -> dict[int, dict[str, Any]]:
        """All records that are there, by the index of their sample; a line that was torn is not.

        A prediction counts before an error, since the sample has been tried again. Of two predictions the later one
        counts: the first may have been made without the others of its batch.
        """
        records: dict[int, dict[str, Any]] = {}
        new: list[dict[str, Any]] = []
        for path in self._unfinished_files():
            if path.exists():
                new += self._read_file(path)
        merged: list[dict[str, Any]] = []
        if self.predictions_file.exists():  # read last: it may just be taking over
            merged += self._read_file(self.predictions_file)
        for record in merged + new:
            if record["error"] is None or record["index"] not in records:
                records[record["index"]] = record
        return records

    def _read_file(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the records of a file whose lines end.

        Raises:
            ValueError: if a line is JSON, but no record.
        """
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n"), 1):
            try:
                record = parse_json(line)
            except ValueError:  # torn: its sample is predicted again
                continue
            check_fields(record, f"{path}, line {number}", index=int, error=(str, type(None)))
            yield record

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add the records of one batch; when this returns, they are on disk."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        safe = "All earlier predictions are safe: make room, and the same command resumes."
        with explained_write_errors(self._own_file, safe), open(self._own_file, "ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def merge(self, count: int) -> Path:
        """Put the records of all `count` samples in order into one file, and remove those that they came from."""
        records = self.read()
        missing = sorted(set(range(count)) - set(records))
        if missing or len(records) != count:
            raise RuntimeError(
                f"{self.folder} must hold one record for each of {count} samples, got none for {missing}"
            )
        safe = "All predictions are safe: make room, and the same command puts them together."
        with explained_write_errors(self.predictions_file, safe), written_whole(self.predictions_file) as unfinished:
            unfinished.write_text("".join(json.dumps(records[index]) + "\n" for index in range(count)))
        for path in self._unfinished_files():
            path.unlink()
        return self.predictions_file

    def _unfinished_files(self) -> list[Path]:
        """Return the files of single processes, those of version 0.1 first, each kind in the order of the runs."""
        found: list[Path] = []
        for pattern in _UNFINISHED:
            found += sorted(self.folder.glob(pattern))
        return found
