"""A family and a task from outside of the package: does a picture show its risk on the right?"""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from hmba_hf.evaluation.task import CardMetric, Scorer, Scores, Task
from hmba_hf.families import Family, register_family, register_task


class ToyConfig(PreTrainedConfig):
    model_type = "toy"


class ToyModel(PreTrainedModel):
    config_class = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.head = torch.nn.Linear(3, 2)
        self.post_init()

    def forward(self, pixel_values_videos, labels=None):
        logits = self.head(pixel_values_videos[:, -1].mean((-1, -2)))  # (b, 2)
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def encode(samples, processor):
    return processor(videos=[list(sample.frames) for sample in samples], return_tensors="pt")


def predict(model, processor, inputs, options):
    return model(inputs["pixel_values_videos"].to(model.device))["logits"].argmax(-1).tolist()


def record(sample):
    return {"id": sample.id, "task": "toy", "reference": int(sample.boxes[-1][0] > 0.4), "tags": list(sample.tags)}


class ToyScorer(Scorer):
    def score(self, rows):
        right = [self.records[row]["answer"] == self.records[row]["reference"] for row in rows]
        return Scores({"accuracy": sum(right) / len(right)}, intervals={}, absent={})


AutoConfig.register("toy", ToyConfig)
AutoModel.register(ToyConfig, ToyModel)
SHOWN = {"accuracy": CardMetric("accuracy", "accuracy")}
register_task(Task("toy", "video-classification", encode, predict, record, ToyScorer, SHOWN))
CARD = Path(__file__).parent / "toy_card.md"
parts = {"head": "head."}
register_family(Family("toy", "Toy", "toy", "AutoModel", parts, "video-classification", CARD, rates=parts))
