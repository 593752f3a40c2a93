"""From annotations to parquet files for `load_dataset`: parallel, resumable, with every entry accounted for."""

import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tqdm.auto import tqdm

from ...digests import digest_text
from .parquet_shards import CARD_FILE, LICENSE_FILE, REPORT_FILE, SPLITS, Dropped, ShardFolder, ShardResult
from .publishing import CardText, write_card

MEDIA_MISSING = "media_missing"
MEDIA_UNREADABLE = "media_unreadable"

_ANNOTATION_ROWS_PER_FILE = 100_000  # rows without media are small


@dataclass(frozen=True)
class Entry:
    """One annotation that is to become one row.

    Args:
        id: unique name, also that of the row.
        split: `"train"`, `"validation"` or `"test"`.
        media: the file or clip that is read for it; neighbours with the same media are converted together.
        content: input of its converter: a plain value, or a dataclass with a `fingerprint_name`.
    """

    fingerprint_name: ClassVar = "Record"

    id: str
    split: str
    media: str
    content: Any


@dataclass(frozen=True)
class Converted:
    """A row, and notes about changes that were made for it."""

    row: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass
class Plan:
    """Every annotation of the input, as an entry to convert or as a dropped one.

    Args:
        found: number of annotations in the input.
        entries: in the order of their rows within each split.
        dropped: those that become no row whatever their media, in the order of the input.
    """

    found: int
    entries: list[Entry]
    dropped: list[Dropped]

    def __post_init__(self) -> None:
        assert self.found == len(self.entries) + len(self.dropped), "an annotation was lost while planning"
        seen: set[str] = set()
        for entry in self.entries:
            assert entry.split in SPLITS, f"a split must be of {SPLITS}, got {entry.split!r}"
            if entry.id in seen:
                raise ValueError(f"every entry must have an id of its own, got more than one of {entry.id!r}")
            seen.add(entry.id)


Convert = Callable[[Sequence[Entry]], Sequence[Converted | Dropped]]


@dataclass
class Preparation:
    """Everything that determines the written bytes.

    Args:
        plan: the annotations.
        convert: turns entries that share their media into rows or dropped entries; called from several threads.
        features: the `datasets.Features` of a row.
        settings: name of the dataset, hashes of its input and options, as JSON.
        card: text of the dataset card.
        rows_per_file: entries of one parquet file.
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
    """Where a dataset is written, and how; only `rows_per_file` changes the written bytes."""

    output_dir: str = field(metadata={"help": "folder of the finished dataset; the same command resumes there"})
    rows_per_file: int | None = field(default=None, metadata={"help": "entries of one parquet file"})
    num_workers: int | None = field(default=None, metadata={"help": "threads; one for each core when absent"})
    on_error: Literal["skip", "stop"] = field(
        default="skip", metadata={"help": "what to do about missing or unreadable pictures and videos"}
    )
    retry_dropped: bool = field(
        default=False, metadata={"help": "convert again the files that lack rows with unreadable media"}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "delete what output_dir holds and start from the beginning"}
    )

    def __post_init__(self) -> None:
        for name in ("rows_per_file", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def file_size(self, usual: int, annotations_only: bool) -> int:
        """Return the number of entries of one file: as given, or the usual one."""
        if self.rows_per_file is not None:
            return self.rows_per_file
        return _ANNOTATION_ROWS_PER_FILE if annotations_only else usual


@dataclass(frozen=True)
class _Shard:
    """A parquet file to write: its name and its entries, those that share their media in one group."""

    name: str
    groups: list[list[Entry]]


def prepare(preparation: Preparation, run: RunOptions) -> dict[str, Any]:
    """Convert the remaining entries, and write parquet files, `report.json` and the dataset card.

    The same call resumes a stopped or killed run and ends with the same files.

    Returns:
        The report, as `build_report` makes it.

    Raises:
        ValueError: if the folder holds another dataset, if no annotation becomes a row, or if media are bad and
            `run.on_error` is `"stop"`.
        OSError: if the disk is full; complete files stay.
    """
    if not preparation.plan.entries:
        raise _no_rows(preparation, preparation.plan.dropped)  # before the folder is an unfinished dataset
    shards = list(_shards(preparation.plan.entries, preparation.rows_per_file))
    identity = {
        **preparation.settings,
        "rows_per_file": preparation.rows_per_file,
        "plan": digest_text(_written_for_digest(preparation.plan.entries)),
    }
    with ShardFolder(run.output_dir).opened(identity, run.overwrite) as folder:
        complete: dict[str, ShardResult] = {}
        todo = []
        for shard in shards:
            result = folder.result(shard.name)
            if result is None or (run.retry_dropped and _bad_media(result)):
                todo.append(shard)
                continue
            _check_media(result, run)
            complete[shard.name] = result
        complete |= _convert_shards(preparation, todo, folder, run)
        _check_any_row(preparation, complete)
        report = build_report(preparation, {shard.name: complete[shard.name] for shard in shards})
        folder.write_json(folder.folder / REPORT_FILE, report)
        folder.write_text(folder.folder / CARD_FILE, write_card(preparation.card, report))
        if preparation.licence_file is not None:
            folder.write_text(folder.folder / LICENSE_FILE, preparation.licence_file.read_text("utf-8", "replace"))
    return report


def _written_for_digest(value: Any) -> str:
    """Write entries as a `repr` with fixed names of classes, since unfinished folders hold the digest of this text."""
    if isinstance(value, list):
        return f"[{', '.join(map(_written_for_digest, value))}]"
    if not is_dataclass(value):
        return repr(value)
    content: Any = value
    written = [f"{part.name}={_written_for_digest(getattr(value, part.name))}" for part in fields(value)]
    return f"{content.fingerprint_name}({', '.join(written)})"


def _shards(entries: Sequence[Entry], rows_per_file: int) -> Iterator[_Shard]:
    for split in SPLITS:
        chosen = [entry for entry in entries if entry.split == split]
        total = -(-len(chosen) // rows_per_file)
        for number in range(total):
            part = chosen[number * rows_per_file : (number + 1) * rows_per_file]
            groups = [list(group) for _, group in itertools.groupby(part, key=lambda entry: entry.media)]
            yield _Shard(f"{split}-{number:05d}-of-{total:05d}", groups)


def _convert_shards(
    preparation: Preparation, todo: Sequence[_Shard], folder: ShardFolder, run: RunOptions
) -> dict[str, ShardResult]:
    """Convert and write the files that are missing, with a progress bar over all entries."""
    done: dict[str, ShardResult] = {}
    groups: list[list[Entry]] = []
    for shard in todo:
        groups += shard.groups
    total = len(preparation.plan.entries)
    remaining = sum(map(len, groups))
    outcomes = _in_parallel(preparation.convert, groups, run.num_workers or os.cpu_count() or 1)
    bar = tqdm(total=total, initial=total - remaining, unit=" rows", desc=preparation.settings["dataset"])
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
    group: Sequence[Entry], outcomes: Sequence[Converted | Dropped], rows: list[dict[str, Any]], result: ShardResult
) -> None:
    for entry, outcome in zip(group, outcomes, strict=True):
        if isinstance(outcome, Dropped):
            result.dropped.append(outcome)
        else:
            rows.append(outcome.row)
            for note in outcome.notes:
                result.notes.append((entry.id, note))
    result.rows = len(rows)


def _bad_media(result: ShardResult) -> list[Dropped]:
    """Return the entries of a file that are left out because their media are missing or cannot be read."""
    return [item for item in result.dropped if item.reason in (MEDIA_MISSING, MEDIA_UNREADABLE)]


def _check_media(result: ShardResult, run: RunOptions) -> None:
    if run.on_error == "stop" and (found := _bad_media(result)):
        bad = found[0]
        raise ValueError(
            f"{bad.id}: {bad.reason} ({bad.detail}); put it right and run the same command with --retry_dropped, or "
            "leave such entries out with --on_error skip"
        )


def _check_any_row(preparation: Preparation, results: dict[str, ShardResult]) -> None:
    if any(result.rows for result in results.values()):
        return
    dropped = list(preparation.plan.dropped)
    bad: list[Dropped] = []
    for result in results.values():
        dropped += result.dropped
        bad += _bad_media(result)
    reasons = Counter(item.reason for item in dropped)
    others = [count for reason, count in reasons.items() if reason not in (MEDIA_MISSING, MEDIA_UNREADABLE)]
    if bad and len(bad) >= max(others, default=0):
        raise ValueError(
            f"none of {len(bad)} entries has media that can be read; the first one, {bad[0].id}: {bad[0].reason} "
            f"({bad[0].detail}); name the right folder, and run the command with --retry_dropped"
        )
    raise _no_rows(preparation, dropped)


def _no_rows(preparation: Preparation, dropped: Sequence[Dropped]) -> ValueError:
    """Return the error of annotations that all become no row, of which there may be none."""
    wanted = f"annotations of {preparation.settings['dataset']} must make one row or more"
    if not dropped:
        return ValueError(f"{wanted}, got files without an entry")
    reason, count = Counter(item.reason for item in dropped).most_common(1)[0]
    first = next(item for item in dropped if item.reason == reason)
    return ValueError(
        f"{wanted}, got none of {len(dropped)}; the most frequent reason is {reason}, {count} times, as of "
        f"{first.id} ({first.detail})"
    )


def _in_parallel(
    convert: Convert, groups: Iterable[list[Entry]], num_workers: int
) -> Generator[Sequence[Converted | Dropped], None, None]:
    """Yield the outcomes of groups in their order, with a bounded number of groups in progress.

    Threads suffice, since decoding, scaling and encoding release the interpreter's lock. A killed run leaves no
    process behind.
    """
    pool = ThreadPoolExecutor(num_workers)
    waiting: deque[Future] = deque()
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
        each split; `reasons`, the number of dropped entries for each; `dropped_records`, each with its id, reason and
        detail; `notes`, the ids of rows for each note.
    """
    plan = preparation.plan
    rows: dict[str, int] = {}
    dropped = list(plan.dropped)
    notes: dict[str, list[str]] = {}
    for shard_name, result in results.items():
        split = shard_name.partition("-")[0]
        rows[split] = rows.get(split, 0) + result.rows
        dropped += result.dropped
        for name, note in result.notes:
            notes.setdefault(note, []).append(name)
    assert plan.found == sum(rows.values()) + len(dropped), "an entry was lost"
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
    counts = {"annotations found": report["found"], "rows written": report["written"]}
    for split, count in report["rows"].items():
        counts[f"  {split}"] = count
    counts["dropped"] = report["dropped"]
    for reason, count in report["reasons"].items():
        counts[f"  {reason}"] = count
    for note, names in report["notes"].items():
        counts[f"rows with a note: {note}"] = len(names)
    width = max(map(len, counts))
    table = "\n".join(f"{name:<{width}}  {count:>8,}" for name, count in counts.items())
    if {MEDIA_MISSING, MEDIA_UNREADABLE} & set(report["reasons"]):
        table += "\nThe same command with --retry_dropped tries missing and unreadable media again."
    return table


def name_differently(name: str, taken: Counter[str]) -> str:
    """Return `name`, or `name-2` where it is taken already, and take it."""
    taken[name] += 1
    if taken[name] == 1:
        return name
    return name_differently(f"{name}-{taken[name]}", taken)


def refuse_unused(options: Any, names: Sequence[str], because: str) -> None:
    """Raise `ValueError` if one of these fields of a dataclass is set although it would have no effect."""
    given = []
    for option in fields(options):
        if option.name in names and getattr(options, option.name) != option.default:
            given.append(option.name)
    if given:
        raise ValueError(f"{', '.join(given)} would have no effect: {because}")
