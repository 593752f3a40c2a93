"""From annotations to parquet files that `load_dataset` reads: parallel, resumable, and every record accounted for."""

import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from ...digests import digest_text
from .parquet_shards import CARD_FILE, LICENSE_FILE, REPORT_FILE, SPLITS, Dropped, ShardFolder, ShardResult
from .publishing import CardText, write_card

MEDIA_MISSING, MEDIA_UNREADABLE = "media_missing", "media_unreadable"

_ANNOTATION_ROWS_PER_FILE = 100_000  # rows without media are small


@dataclass(frozen=True)
class Record:
    """One annotation that is to become one row.

    Args:
        id: unique name, also that of the row.
        split: `"train"`, `"validation"` or `"test"`.
        media: what is read for it; neighbours that read the same are converted together.
        content: what its converter needs to know; its `repr` must tell it from others.
    """

    id: str
    split: str
    media: str
    content: Any


@dataclass(frozen=True)
class Converted:
    """A row, and remarks about what had to be done to make it."""

    row: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass
class Plan:
    """Every annotation that was found, as a record to convert or as one that is dropped.

    Args:
        found: number of annotations in the input.
        records: in the order of their rows within each split.
        dropped: those that become no row whatever its media, in the order of the input.
    """

    found: int
    records: list[Record]
    dropped: list[Dropped]

    def __post_init__(self) -> None:
        assert self.found == len(self.records) + len(self.dropped), "an annotation was lost while planning"
        repeated = [name for name, count in Counter(record.id for record in self.records).items() if count > 1]
        if repeated:
            raise ValueError(f"every record needs an id of its own, got more than one of {repeated[:3]}")
        strange = sorted({record.split for record in self.records} - {*SPLITS})
        assert not strange, f"splits are {SPLITS}, got {strange}"


Convert = Callable[[Sequence[Record]], Sequence[Converted | Dropped]]


@dataclass
class Preparation:
    """What decides about the bytes that are written.

    Args:
        plan: the annotations.
        convert: turns records that share their media into rows, or says why it cannot; called from several threads.
        features: the `datasets.Features` of a row.
        settings: name of the dataset, hashes of its input and options, as JSON.
        card: text of the dataset card.
        rows_per_file: records of one parquet file.
        licence_file: copied beside them.
    """

    plan: Plan
    convert: Convert
    features: Any
    settings: dict[str, Any]
    card: CardText
    rows_per_file: int
    licence_file: Path | None = None


@dataclass
class RunOptions:
    """Where a dataset is written, and how; none of it but `rows_per_file` changes what is written."""

    output_dir: str = field(metadata={"help": "folder of the finished dataset; the same command resumes there"})
    rows_per_file: int | None = field(default=None, metadata={"help": "records of one parquet file"})
    num_workers: int | None = field(default=None, metadata={"help": "threads; one for each core when absent"})
    on_error: Literal["skip", "stop"] = field(
        default="skip", metadata={"help": "what to do about missing or unreadable pictures and videos"}
    )
    retry_dropped: bool = field(
        default=False, metadata={"help": "convert again the files that lack rows for want of readable media"}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "start anew, whatever output_dir holds; to resume, leave it out"}
    )

    def __post_init__(self) -> None:
        for name in ("rows_per_file", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def file_size(self, usual: int, annotations_only: bool) -> int:
        """Records of one file: as asked for, or what is usual for a dataset with its media."""
        return self.rows_per_file or (_ANNOTATION_ROWS_PER_FILE if annotations_only else usual)


@dataclass(frozen=True)
class _Shard:
    """One parquet file to be: its name and its records, those that share their media in one group."""

    name: str
    groups: list[list[Record]]


def prepare(preparation: Preparation, run: RunOptions) -> dict[str, Any]:
    """Convert what is not converted yet, and write parquet files, `report.json` and the dataset card.

    A run that was stopped, by whatever means, is gone on with by the same call, and ends with the same files.

    Returns:
        The report, as `build_report` makes it.

    Raises:
        ValueError: if the folder holds another dataset, if media are bad and `run.on_error` is `"stop"`, or if
            all are.
        OSError: if the disk is full; what is complete stays.
    """
    shards = list(_shards(preparation.plan.records, preparation.rows_per_file))
    identity = {
        **preparation.settings,
        "rows_per_file": preparation.rows_per_file,
        "plan": digest_text(repr(preparation.plan.records)),
    }
    with ShardFolder(run.output_dir).opened(identity, run.overwrite) as folder:
        results = {shard.name: folder.result(shard.name) for shard in shards}
        if run.retry_dropped:
            results = {name: None if result and _bad_media(result) else result for name, result in results.items()}
        complete = {name: result for name, result in results.items() if result is not None}
        for result in complete.values():
            _check_media(result, run)
        todo = [shard for shard in shards if shard.name not in complete]
        complete |= _convert_shards(preparation, todo, folder, run)
        _check_any_media(complete)
        report = build_report(preparation, {shard.name: complete[shard.name] for shard in shards})
        folder.write_json(folder.folder / REPORT_FILE, report)
        folder.write_text(folder.folder / CARD_FILE, write_card(preparation.card, report))
        if preparation.licence_file is not None:
            folder.write_text(folder.folder / LICENSE_FILE, preparation.licence_file.read_text("utf-8", "replace"))
    return report


def _shards(records: Sequence[Record], rows_per_file: int) -> Iterator[_Shard]:
    for split in SPLITS:
        chosen = [record for record in records if record.split == split]
        total = -(-len(chosen) // rows_per_file)
        for number in range(total):
            part = chosen[number * rows_per_file : (number + 1) * rows_per_file]
            groups = [list(group) for _, group in itertools.groupby(part, key=lambda record: record.media)]
            yield _Shard(f"{split}-{number:05d}-of-{total:05d}", groups)


def _convert_shards(
    preparation: Preparation, todo: Sequence[_Shard], folder: ShardFolder, run: RunOptions
) -> dict[str, ShardResult]:
    """Convert and write the files that are missing, with a progress bar over all records."""
    done: dict[str, ShardResult] = {}
    total, remaining = len(preparation.plan.records), sum(len(group) for shard in todo for group in shard.groups)
    outcomes = _in_parallel(
        preparation.convert,
        (group for shard in todo for group in shard.groups),
        run.num_workers or os.cpu_count() or 1,
    )
    bar = tqdm(total=total, initial=total - remaining, unit=" records", desc=preparation.settings["dataset"])
    try:
        for shard in todo:
            rows: list[dict[str, Any]] = []
            result = ShardResult()
            for group in shard.groups:
                _collect(group, next(outcomes), rows, result)
                _check_media(result, run)
                bar.update(len(group))
            folder.write(shard.name, rows, result, preparation.features)
            done[shard.name] = result
    except KeyboardInterrupt:
        tqdm.write(
            f"stopped with {len(done)} of {len(todo)} files written; the same command without --overwrite "
            "writes the others"
        )
        raise
    finally:
        outcomes.close()
        bar.close()
    return done


def _collect(
    group: Sequence[Record], outcomes: Sequence[Converted | Dropped], rows: list[dict[str, Any]], result: ShardResult
) -> None:
    for record, outcome in zip(group, outcomes, strict=True):
        if isinstance(outcome, Dropped):
            result.dropped.append(outcome)
        else:
            rows.append(outcome.row)
            result.notes += [(record.id, note) for note in outcome.notes]
    result.rows = len(rows)


def _bad_media(result: ShardResult) -> list[Dropped]:
    """The records of a file that are left out because what they show is missing or cannot be read."""
    return [item for item in result.dropped if item.reason in (MEDIA_MISSING, MEDIA_UNREADABLE)]


def _check_media(result: ShardResult, run: RunOptions) -> None:
    if run.on_error == "stop" and (found := _bad_media(result)):
        bad = found[0]
        raise ValueError(
            f"{bad.id}: {bad.reason} ({bad.detail}); put it right and run the same command with --retry_dropped, or "
            "leave such records out with --on_error skip"
        )


def _check_any_media(results: dict[str, ShardResult]) -> None:
    bad = [item for result in results.values() for item in _bad_media(result)]
    if bad and not any(result.rows for result in results.values()):
        raise ValueError(
            f"none of {len(bad)} records has media that can be read; the first one, {bad[0].id}: {bad[0].reason} "
            f"({bad[0].detail}); name the right folder, and run the command with --retry_dropped"
        )


def _in_parallel(
    convert: Convert, groups: Iterable[list[Record]], num_workers: int
) -> Generator[Sequence[Converted | Dropped], None, None]:
    """Yield what groups are converted to, in their order, a bounded number of them under way.

    Threads do: decoding, scaling and encoding let go of the interpreter, and a killed run leaves no process behind.
    """
    pool, waiting = ThreadPoolExecutor(num_workers), deque[Future]()
    try:
        for group in groups:
            waiting.append(pool.submit(convert, group))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def build_report(preparation: Preparation, results: dict[str, ShardResult]) -> dict[str, Any]:
    """Account for every annotation: found = written + dropped.

    Returns:
        `settings`; `card`, the text of the card; `found`, `written` and `dropped`, numbers; `rows`, their number for
        each split; `reasons`, the number of records dropped for each; `dropped_records`, each with its id, reason and
        detail; `notes`, the ids of rows for each remark about them.
    """
    plan = preparation.plan
    rows: dict[str, int] = {}
    for name, result in results.items():
        split = name.partition("-")[0]
        rows[split] = rows.get(split, 0) + result.rows
    dropped = [*plan.dropped, *(item for result in results.values() for item in result.dropped)]
    assert plan.found == sum(rows.values()) + len(dropped), "a record was lost"
    notes: dict[str, list[str]] = {}
    for name, note in (pair for result in results.values() for pair in result.notes):
        notes.setdefault(note, []).append(name)
    return {
        "settings": preparation.settings,
        "card": {**asdict(preparation.card), "tags": list(preparation.card.tags)},
        "found": plan.found,
        "written": sum(rows.values()),
        "dropped": len(dropped),
        "rows": rows,
        "reasons": dict(Counter(item.reason for item in dropped).most_common()),
        "dropped_records": [asdict(item) for item in dropped],
        "notes": notes,
    }


def format_report(report: dict[str, Any]) -> str:
    """Write the numbers of a report as a table."""
    lines = [("annotations found", report["found"]), ("rows written", report["written"])]
    lines += [(f"  {split}", count) for split, count in report["rows"].items()]
    lines += [("dropped", report["dropped"])]
    lines += [(f"  {reason}", count) for reason, count in report["reasons"].items()]
    lines += [(f"rows with a note: {note}", len(names)) for note, names in report["notes"].items()]
    width = max(len(name) for name, _ in lines)
    table = "\n".join(f"{name:<{width}}  {count:>8,}" for name, count in lines)
    if {MEDIA_MISSING, MEDIA_UNREADABLE} & set(report["reasons"]):
        table += "\nThe same command with --retry_dropped tries again what was missing or could not be read."
    return table


def name_differently(name: str, taken: Counter[str]) -> str:
    """Return `name`, or `name-2` where it is taken already, and take it."""
    taken[name] += 1
    return name if taken[name] == 1 else name_differently(f"{name}-{taken[name]}", taken)


def refuse_unused(options: Any, names: Sequence[str], because: str) -> None:
    """Raise `ValueError` if one of these fields of a dataclass is set although nothing would come of it."""
    given = [
        item.name for item in fields(options) if item.name in names and getattr(options, item.name) != item.default
    ]
    if given:
        raise ValueError(f"{', '.join(given)} would have no effect: {because}")
