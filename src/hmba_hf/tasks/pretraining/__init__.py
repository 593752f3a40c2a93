"""Masked pre-training: a model learns what a frozen CLIP sees in the patches that a mask leaves visible."""

from ...evaluation.task import Task
from .distances import (
    CARD_METRICS,
    DistanceArguments,
    DistanceScorer,
    check_record,
    clip_record,
    encode_clips,
    load_clips,
    measure_distances,
)

TASK = Task(
    name="pretraining",
    hub_task="feature-extraction",
    encode=encode_clips,
    predict=measure_distances,
    record=clip_record,
    check_record=check_record,
    scorer=DistanceScorer,
    metrics=CARD_METRICS,
    arguments=DistanceArguments,
    load=load_clips,
)
