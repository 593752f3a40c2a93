"""Answering: a question about a clip, and a text with boxes for an answer."""

from collections.abc import Mapping

from ...evaluation.results import package_versions
from ...evaluation.task import Task
from ...metrics.caption_tokens import java_version
from .generation import encode_questions, generate_answers
from .pictures import draw_answered
from .prediction import PredictionArguments, load_clips
from .records import check_record, reading_record, sample_record
from .scores import CARD_METRICS, AnswerScorer


def _versions() -> Mapping[str, str | None]:
    return {**package_versions("pycocoevalcap"), "java": java_version()}


TASK = Task(
    name="answering",
    hub_task="video-text-to-text",
    encode=encode_questions,
    predict=generate_answers,
    record=sample_record,
    reading=reading_record,
    check_record=check_record,
    scorer=AnswerScorer,
    metrics=CARD_METRICS,
    settings={"tokenizer": "captions in words of the tokenizer {!r}"},
    versions=_versions,
    draw=draw_answered,
    arguments=PredictionArguments,
    load=load_clips,
)
