"""Classification: one of several classes for a clip."""

from ...evaluation.task import Task
from .pictures import draw_classified
from .prediction import PredictionArguments, classify_clips, encode_clips, load_clips
from .records import check_record, sample_record
from .scores import CARD_METRICS, SETTINGS, ClassScorer

TASK = Task(
    name="classification",
    hub_task="video-classification",
    encode=encode_clips,
    predict=classify_clips,
    record=sample_record,
    check_record=check_record,
    scorer=ClassScorer,
    settings=SETTINGS,
    metrics=CARD_METRICS,
    draw=draw_classified,
    arguments=PredictionArguments,
    load=load_clips,
)
