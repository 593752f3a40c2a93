"""The questions of our tasks as lmms-eval's documents, and its answers as our records, scored by our metrics.

A document is a record without an answer, text and numbers, and the source of its clip, which is read when it is asked
for.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..data.samples import BDDX_PARTS, Sample, import_datasets
from ..data.schemas import QUESTIONS
from ..evaluation.batches import Outcome
from ..evaluation.predicting import to_record
from ..evaluation.scoring import ScoredRecords
from ..evaluation.splits import Splits, load_splits
from ..messages import logger
from ..models.decoding_containers import LIMITS, SourceLimits
from ..tasks.answering import TASK
from ..tasks.answering.boxes import box_reading

Document = dict[str, Any]
CAPTION_SCORES = ("bleu_4", "meteor", "rouge_l", "cider")
SCORES = ("mean_iou", "accuracy", "unparsed", "picked", *CAPTION_SCORES)
BDDX_SCORES = tuple(f"{part}_{name}" for part in BDDX_PARTS for name in CAPTION_SCORES)

_limits = LIMITS  # of pictures in documents
_processor: Any = None  # of the model that answers


def set_limits(limits: SourceLimits) -> None:
    """Set the limits on the pictures of documents that are read from now on: lmms-eval gives tasks no options."""
    global _limits
    _limits = limits


def set_processor(processor: Any) -> None:
    """Set whose dialect the boxes of answers are read in; without one they are read as H-MBA's."""
    global _processor
    _processor = processor


def open_documents(sources: Any) -> Any:
    """Read the documents of a split, whose name, dataset and size the only row of `sources` tells, as a `Dataset`.

    A name of a dataset that begins with `$` stands for the environment variable that holds it.

    Raises:
        ValueError: if that variable is not set, or if there is no such dataset or split.
    """
    (source,) = sources
    name = source["dataset_name"]
    if name.startswith("$"):
        variable = name[1:]
        name = os.environ.get(variable)
        if not name:
            raise ValueError(f"set {variable} to the folder or Hub id of the dataset of this task")
    source = {"dataset_name": name, "split": source["split"], "size": source["size"]}
    samples = _open_samples(**source, limits=_limits)
    documents = []
    for index in tqdm(range(len(samples)), desc="documents"):
        record = to_record(Outcome(index, samples[index]), samples, TASK)
        documents.append({**record, "source": source})
    return import_datasets().Dataset.from_list(documents)


@cache
def _open_samples(dataset_name: str, split: str, size: int | None, limits: SourceLimits) -> Splits:
    return load_splits(dataset_name, [split], size, limits=limits, schemas=QUESTIONS)


def _sample_of(document: Document) -> Sample:
    return _open_samples(**document["source"], limits=_limits)[document["index"]]


def doc_to_messages(document: Document) -> list[dict[str, Any]]:
    """The clip as one video, a list of pictures or the path of a file, and the question after it."""
    content = [{"type": "video", "url": _clip_of(document)}, {"type": "text", "text": document["question"]}]
    return [{"role": "user", "content": content}]


def doc_to_visual(document: Document) -> list[Any]:
    """For models without a chat template: the pictures of the clip, or the path of its file."""
    clip = _clip_of(document)
    if isinstance(clip, str):
        return [clip]
    return clip


def _clip_of(document: Document) -> list[Any] | str:
    """The pictures of a document's clip, or the path of its file."""
    sample = _sample_of(document)
    if sample.frames is not None:
        return list(sample.frames)
    return _path_of(sample)


def _path_of(sample: Sample) -> str:
    """Path of a sample's video, which is written to a temporary file if it comes as bytes."""
    if not isinstance(sample.video, bytes):
        return str(sample.video)
    path = Path(_temporary_folder().name) / f"{sample.id}.mp4"
    if not path.exists():
        path.write_bytes(sample.video)
    return str(path)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="hmba-videos-")


def process_results(document: Document, results: Sequence[str]) -> dict[str, Document]:
    """Put the answer into the record, under the name of every metric: all of them are scores of the whole corpus."""
    names = BDDX_SCORES if document["parts"] else SCORES
    reading = box_reading(_processor, document["size"])
    return dict.fromkeys(names, {**document, **reading, "answer": results[0]})


def score(records: Sequence[Document], name: str) -> float:
    """One score of all records, as `ScoredRecords` names it; NaN where it is absent."""
    return _score_all(json.dumps(list(records))).get(name, float("nan"))


@lru_cache(maxsize=4)  # one for each task of a run, whose metrics ask one after the other
def _score_all(records: str) -> dict[str, float]:
    scored = ScoredRecords(json.loads(records))
    scores = scored.scores()["scores"]
    for reason in dict.fromkeys(scored.absent.values()):
        logger.warning(reason)
    return scores


def __getattr__(name: str) -> Any:
    """The aggregation of each score under its own name, as the task files call it."""
    if name in (*SCORES, *BDDX_SCORES):
        return partial(score, name=name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
