"""Retrieval: the videos that fit a text, and the texts that fit a video."""

from ...evaluation.task import Task
from .prediction import PredictionArguments, encode_ids, load_pairs, look_up_ranks
from .records import check_record, sample_record
from .scores import CARD_METRICS, RankScorer

TASK = Task(
    name="retrieval",
    hub_task="text-to-video-retrieval",
    encode=encode_ids,
    predict=look_up_ranks,
    record=sample_record,
    check_record=check_record,
    scorer=RankScorer,
    metrics=CARD_METRICS,
    arguments=PredictionArguments,
    load=load_pairs,
)
