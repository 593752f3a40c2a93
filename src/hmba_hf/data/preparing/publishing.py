"""A prepared dataset's card, and its way to the Hub."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub

from ...files import check_fields, read_json_object
from ...repositories import claim_repository, commit_files, commit_with_card
from ..samples import import_datasets
from .parquet_shards import CARD_FILE, LICENSE_FILE, REPORT_FILE, check_finished

LIMITS_OF_DRIVING = """\
- For research on video-language models. **Not for driving:** no vehicle or person on a road may depend on it.
- A few cars have recorded it in a few places, and a few people have described it. What is rare on a road is rare here,
  and what they have overlooked is missing.
"""


@dataclass(frozen=True)
class CardText:
    """The text of a dataset's card besides its numbers.

    Args:
        title: name of the dataset.
        rows: what a row is.
        licence: who may use it, and for what.
        tags: of the Hub.
        licence_name: name of these terms, for the metadata.
        licence_link: address of these terms.
        task: the Hub's word for what models do with it.
        program: the command that trains on it.
        limits: of the dataset, as lines of a list.
    """

    title: str
    rows: str
    licence: str
    tags: tuple[str, ...] = ()
    licence_name: str | None = None
    licence_link: str | None = None
    task: str = "video-text-to-text"
    program: str = "hmba finetune"
    limits: str = LIMITS_OF_DRIVING


@dataclass
class PushOptions:
    """Whether the finished dataset is pushed to the Hub, with the token of `hf auth login`."""

    push_to_hub: str | None = field(default=None, metadata={"help": "repository, such as name/dataset; private"})
    public: bool = field(default=False, metadata={"help": "let everybody see it: only what you may redistribute"})

    def __post_init__(self) -> None:
        if self.public and self.push_to_hub is None:
            raise ValueError("push_to_hub must name the repository that is public, got None")


def write_card(
    text: CardText, report: dict[str, Any], repo_id: str = "this-folder", revision: str | None = None
) -> str:
    """Write the dataset card of a report as `build_report` makes it: metadata, use, counts, settings, limits, licence.

    Its metadata do not list the files, for `load_dataset` finds them by their names. With listed files, it would reuse
    its cache of another folder of the same name.

    Args:
        repo_id: repository of the dataset.
        revision: commit that holds it; a card cannot name the commit that it comes with.
    """
    pin = "None  # or a commit, which never changes"
    dataset_name = repo_id
    if revision is not None:
        pin = f'"{revision}"'
        dataset_name = f"{repo_id}@{revision}"
    return f"""---
{_metadata(text).to_yaml()}
---

# {text.title}

{text.rows}

## Use

```python
from datasets import load_dataset

repository = "{repo_id}"
revision = {pin}
rows = load_dataset(repository, split="{next(iter(report["rows"]), "train")}", revision=revision)
```
```
{text.program} --dataset_name {dataset_name} ...
```

## Rows

{_table("split", "rows", report["rows"])}

{_left_out(report)}

Prepared by hmba-hf with {_options(report)}.

## Limits

{text.limits}
## Licence

{text.licence}
"""


def _metadata(text: CardText) -> huggingface_hub.DatasetCardData:
    return huggingface_hub.DatasetCardData(
        pretty_name=text.title,
        language="en",
        license="other",
        license_name=text.licence_name,
        license_link=text.licence_link,
        task_categories=[text.task],
        tags=list(text.tags),
    )


def _options(report: dict[str, Any]) -> str:
    options = []
    for name, value in report["settings"].items():
        if name not in ("dataset", "files"):
            options.append(f"`{name}={value}`")
    return ", ".join(options)


def _left_out(report: dict[str, Any]) -> str:
    found = report["found"]
    dropped = report["dropped"]
    text = f"Of {found:,} annotations {dropped:,} became no row; `{REPORT_FILE}` names each with the reason."
    if report["reasons"]:
        text += "\n\n" + _table("reason", "annotations", report["reasons"])
    return text


def _table(name: str, value: str, counts: dict[str, int]) -> str:
    rows = (f"| {key} | {count:,} |" for key, count in counts.items())
    return "\n".join((f"| {name} | {value} |", "|---|---|", *rows))


def push_folder(folder: str | Path, options: PushOptions) -> str:
    """Upload a finished dataset in one commit, and remove parquet files of an earlier one from the repository.

    The card of a prepared dataset is written from its stored report; a second commit pins the first in it.

    Returns:
        The address of the repository.

    Raises:
        ValueError: if the folder holds no finished dataset, if its report does not match its files, or if the dataset
            is to stay private and the repository is public already.
        RuntimeError: if another push changes the repository meanwhile.
    """
    if options.push_to_hub is None:
        raise ValueError("push_to_hub must name a repository, got None")
    folder = Path(folder)
    others = [folder / name for name in (CARD_FILE, REPORT_FILE, LICENSE_FILE)]
    parquet = sorted((folder / "data").glob("*.parquet"))
    files: dict[str, Path | bytes] = {}
    for path in (*parquet, *others):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path
    report = _read_report(folder, parquet)
    address = claim_repository(options.push_to_hub, "dataset", private=not options.public)
    repo_id = address.repo_id
    place: dict[str, Any] = {"message": "Upload dataset", "repo_type": "dataset"}
    if report is None:
        commit_files(repo_id, files, _is_stale, **place)
        return str(address)
    files.pop(CARD_FILE, None)
    text = CardText(**report["card"])
    commit_with_card(repo_id, files, lambda commit: write_card(text, report, repo_id, commit), _is_stale, **place)
    return str(address)


def _read_report(folder: Path, parquet: list[Path]) -> dict[str, Any] | None:
    """Read the report of a prepared dataset, whose numbers must be those of its files; other folders have none."""
    if not parquet:
        raise ValueError(f"{folder} must hold a finished dataset, got no parquet file in {folder / 'data'}")
    check_finished(folder)
    if not (folder / REPORT_FILE).is_file():
        return None
    report = read_json_object(folder / REPORT_FILE)
    if "card" not in report:
        raise ValueError(f"{folder / REPORT_FILE} is of an earlier version: run the command that prepares it again")
    numbers = {"written": int, "dropped": int, "found": int}
    check_fields(report, str(folder / REPORT_FILE), card=dict, rows=dict, dropped_records=list, **numbers)
    import_datasets()
    from pyarrow.parquet import read_metadata

    rows: Counter[str] = Counter()
    for path in parquet:
        rows[path.name.partition("-")[0]] += read_metadata(path).num_rows
    held = [report[name] for name in ("rows", "written", "dropped", "found")]
    lost = len(report["dropped_records"])
    found = [dict(rows), rows.total(), lost, rows.total() + lost]
    if held != found:
        raise ValueError(
            f"{folder / REPORT_FILE} must match the folder: rows, written, dropped and found must be {found}, "
            f"got {held}"
        )
    return report


def _is_stale(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return name == REPORT_FILE or (folder == "data" and file.endswith(".parquet"))
