"""Classification: one of several classes for a clip."""

from ...evaluation.task import Task
from .prediction import PredictionArguments, classify_clips, encode_clips, load_clips
from .records import check_record, sample_record
from .scores import CARD_METRICS, ClassScorer

TASK = Task(
    name="classification",
    hub_task="video-classification",
    encode=encode_clips,
    predict=classify_clips,
    record=sample_record,
    check_record=check_record,
    scorer=ClassScorer,
    metrics=CARD_METRICS,
    arguments=PredictionArguments,
    load=load_clips,
)
