"""The studies by name: the runs that each compares, its measurements, and the presentation of its results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....data.loading import TWO_TASKS
from .measuring import KINDS, measure_attention, measure_cost, measure_degradation
from .tables import ATTENTION, COST, DEGRADATION, SCORES, Records, Telling, compare, markdown_table

DISCLAIMER = "Numbers of the micro-world, of a model of less than a million parameters, do not transfer to real roads."

_HOW = (
    "Each run fine-tunes the micro base with the paper preset changed as its row says, and answers about "
    "held-out clips; boxes are read from the generated text. Numbers are means and standard deviations over the "
    "seeds. Below each table: the order expected from the paper's design, and whether it holds here."
)


@dataclass(frozen=True)
class Study:
    """One question, and the runs that answer it.

    Args:
        title: of its table.
        question: in a sentence or two.
        variants: by the label of a row, its changes of the paper preset: options of `hmba finetune`.
        expected: pairs `(better, worse)` of names of `telling.values`, from the paper's design.
        telling: the presentation of its records.
        measure: takes a run's folder, the number of held-out clips and the motion; returns the values that a record
            holds besides its scores, under the study's name.
        lengthen: factor of the usual number of steps.
    """

    title: str
    question: str
    variants: Mapping[str, Mapping[str, Any]]
    expected: Sequence[tuple[str, str]] = ()
    telling: Telling = SCORES
    measure: Callable[[Path, int, str], dict[str, Any]] | None = None
    lengthen: int = 1

    def tell(self, records: Records) -> str:
        """Write the table in Markdown, and below it whether the expectations hold."""
        values = self.telling.values(records)
        sentences = list(self.telling.describe(records))
        for better, worse in self.expected:
            sentences.append(compare(better, worse, values))
        remarks = "\n".join(f"- {sentence}" for sentence in sentences)
        table = markdown_table(self.telling.tabulate(records))
        return f"{table}\n\n{remarks}".rstrip() + "\n"


STUDIES = {
    "branches": Study(
        "Branches",
        "Which of the three scans does the adapter need: T (frames pooled over patches), DST (patches over time, then "
        "space), JST (all tokens at once)?",
        {
            "T": {"branches": ["temporal"]},
            "DST": {"branches": ["divided_space_time"]},
            "JST": {"branches": ["joint_space_time"]},
            "T + DST + JST": {},
        },
        [("T + DST + JST", "T"), ("T + DST + JST", "DST"), ("T + DST + JST", "JST")],
    ),
    "strides": Study(
        "Temporal strides",
        "Do two temporal resolutions find more than one?",
        {"1": {"temporal_strides": [1]}, "2": {"temporal_strides": [2]}, "1 and 2": {}},
        [("1 and 2", "1"), ("1 and 2", "2")],
    ),
    "fusion": Study(
        "Fusion",
        "How should the current frame take from the contexts: by its query, by the released code's cosine, by adding "
        "them up, or from all of them concatenated?",
        {
            "query": {},
            "cosine": {"fusion": "cosine"},
            "add": {"fusion": "add"},
            "concat": {"fusion": "concat"},
        },
        [("query", "cosine"), ("query", "add"), ("query", "concat")],
    ),
    "baselines": Study(
        "Adapters",
        "What does H-MBA find that the current frame alone, the mean of the frames and self-attention over time do "
        "not?",
        {
            "mamba": {},
            "none": {"adapter": "none"},
            "mean": {"adapter": "mean"},
            "transformer": {"adapter": "transformer"},
        },
        [("mamba", "none"), ("mamba", "mean"), ("mamba", "transformer")],
    ),
    "frames": Study(
        "Number of frames",
        "Do more frames help? The same motion is drawn in 3, 5 or 9 frames.",
        {"3": {"num_frames": 3}, "5": {}, "9": {"num_frames": 9}},
        [("5", "3"), ("9", "5")],
    ),
    "degradation": Study(
        "A spoilt current frame",
        "What is left when blur, mud or darkness spoils the current frame and no other? The models are those of "
        "`fusion` and have learned on clean frames. What is expected is said of the share of the "
        "clean mIoU that is left, over the severities.",
        {"query": {}, "add": {"fusion": "add"}},
        [(f"query, {kind}", f"add, {kind}") for kind in KINDS],
        telling=DEGRADATION,
        measure=measure_degradation,
    ),
    "cost": Study(
        "Cost against accuracy",
        "What do frames and strides cost, and what do they bring? Full size is the same adapter on CLIP ViT-L/14, "
        "whose operations are counted, not run.",
        {
            "3 frames, stride 1": {"num_frames": 3, "temporal_strides": [1]},
            "5 frames, stride 1": {"temporal_strides": [1]},
            "9 frames, stride 1": {"num_frames": 9, "temporal_strides": [1]},
            "3 frames, strides 1 and 2": {"num_frames": 3},
            "5 frames, strides 1 and 2": {},
            "9 frames, strides 1 and 2": {"num_frames": 9},
        },
        telling=COST,
        measure=measure_cost,
    ),
    "attention": Study(
        "Where the query looks",
        "How much of the query's attention goes to each branch at each stride, in clips with the risk question and in "
        "clips with the description question? One model learns both, by turns. The adapter is not told the question: "
        "a difference is one between the clips.",
        {"risk and description": {"dataset_name": TWO_TASKS}},
        telling=ATTENTION,
        measure=measure_attention,
        lengthen=2,
    ),
}


def write_page(results: Mapping[str, Mapping[str, Any]], base: str, before: str = "") -> str:
    """Write the results of studies as one Markdown page.

    Args:
        results: by the name of a study, its `"command"`, its `"records"`, and the file name of its `"plot"` or `None`.
        base: the SHA-256 of the weights from which the runs started.
        before: the page before. If its runs started from the same weights, a study without results keeps its section;
            otherwise its section becomes "Not run."
    """
    head = f"{DISCLAIMER} {_HOW} The weights of the base have the SHA-256 `{base}`."
    kept = {}
    if f"`{base}`" in before:
        for section in before.split("\n## ")[1:]:
            title, _, _ = section.partition("\n")
            kept[title] = section.rstrip()
    page = ["# Studies", head]
    for name, study in STUDIES.items():
        if name in results:
            section = _write_section(study, results[name])
        elif study.title in kept:
            section = kept[study.title]
        else:
            section = f"{study.title}\n\n{study.question}\n\nNot run."
        page.append(f"## {section}")
    return "\n\n".join(page) + "\n"


def _write_section(study: Study, done: Mapping[str, Any]) -> str:
    paragraphs = [study.title, study.question, f"`{done['command']}`", study.tell(done["records"]).rstrip()]
    if done["plot"]:
        paragraphs.append(f"![{study.title}]({done['plot']})")
    return "\n\n".join(paragraphs)
