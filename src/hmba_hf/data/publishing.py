"""A prepared dataset's card, and its way to the Hub."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub

from ..repositories import claim_repository
from .parquet_shards import CARD_FILE, REPORT_FILE

LICENSE_FILE = "LICENSE"


@dataclass(frozen=True)
class CardText:
    """What the card of a dataset says besides its numbers.

    Args:
        title: name of the dataset.
        rows: what a row is.
        licence: who may use it, and for what.
        tags: of the Hub.
    """

    title: str
    rows: str
    licence: str
    tags: tuple[str, ...] = ()


@dataclass
class PushOptions:
    """Whether the finished dataset goes to the Hub, with the token of `hf auth login`."""

    push_to_hub: str | None = field(default=None, metadata={"help": "repository, such as name/dataset; private"})
    public: bool = field(default=False, metadata={"help": "let everybody see it: only what you may redistribute"})

    def __post_init__(self) -> None:
        if self.public and self.push_to_hub is None:
            raise ValueError("public=True is about a repository: push_to_hub must name it")


def write_card(text: CardText, report: dict[str, Any]) -> str:
    """Write the dataset card of a report as `build_report` makes it: metadata, counts, settings, licence.

    Its metadata do not list the files, for `load_dataset` finds them by their names. Where they are listed, it takes
    what it has cached of another folder of the same name for this one.
    """
    data = huggingface_hub.DatasetCardData(
        pretty_name=text.title,
        language="en",
        license="other",
        task_categories=["video-text-to-text"],
        tags=list(text.tags),
    )
    options = {name: value for name, value in report["settings"].items() if name not in ("dataset", "files")}
    counts = "\n".join(f"| {split} | {count:,} |" for split, count in report["rows"].items())
    return f"""---
{data.to_yaml()}
---

# {text.title}

{text.rows}

| split | rows |
|---|---|
{counts}

Of {report["found"]:,} annotations {report["dropped"]:,} became no row; `{REPORT_FILE}` names each with the reason.
Prepared by hmba-hf with {", ".join(f"`{name}={value}`" for name, value in options.items())}.

## Licence

{text.licence}
"""


def push_folder(folder: str | Path, options: PushOptions) -> str:
    """Upload a finished dataset, and remove parquet files of an earlier one from the repository.

    Returns:
        The address of the repository.

    Raises:
        ValueError: if the dataset is to stay private and the repository exists and is public.
    """
    if options.push_to_hub is None:
        raise ValueError("push_to_hub must name a repository, got None")
    address = claim_repository(options.push_to_hub, "dataset", private=not options.public)
    huggingface_hub.HfApi().upload_folder(
        repo_id=address.repo_id,
        repo_type="dataset",
        folder_path=folder,
        allow_patterns=["data/*.parquet", CARD_FILE, REPORT_FILE, LICENSE_FILE],
        delete_patterns="data/*.parquet",
        commit_message="Upload dataset",
    )
    return str(address)
