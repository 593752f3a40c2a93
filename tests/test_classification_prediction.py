"""A clip's class is that of the mean probability over its views."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hmba_hf.data.actions.samples import ActionSample
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor
from hmba_hf.tasks.classification.prediction import (
    PredictionArguments,
    check_class_names,
    classify_clips,
    encode_clips,
)

NAMES = {0: "left", 1: "right", 2: "still"}


@dataclass
class Model:
    """Gives the first pixels of a clip as logits."""

    main_input_name: str = "pixel_values_videos"
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def config(self):
        return SimpleNamespace(id2label=NAMES, num_labels=3)

    def __call__(self, **inputs):
        return SimpleNamespace(logits=inputs[self.main_input_name].flatten(1)[:, :3])


def views(*logits):
    """One sample whose views have these logits, `(1, views, t=1, 1, 1, 3)`."""
    return torch.tensor(logits)[None, :, None, None, None]


@pytest.mark.parametrize("kind", ["pixel_values_videos", "pixel_values"])
def test_probabilities_are_averaged_over_the_views(kind):
    logits = ([np.log(0.8), np.log(0.1), np.log(0.1)], [np.log(0.1), np.log(0.5), np.log(0.4)])
    (found,) = classify_clips(Model(kind), None, views(*logits), {})
    assert [item["class"] for item in found] == [0, 1, 2]
    assert [item["label"] for item in found] == ["left", "right", "still"]
    assert [item["score"] for item in found] == pytest.approx([0.45, 0.3, 0.25])


def test_a_clip_gives_temporal_times_spatial_views():
    frames = []
    for number in range(8):
        picture = np.zeros((16, 48, 3), dtype=np.uint8)
        picture[:, 16:32] = 100 + number
        picture[:, 32:] = 200 + number
        frames.append(Image.fromarray(picture))
    sample = ActionSample("a", tuple(frames), 0)
    size = {"height": 16, "width": 16}
    processor = VideoMambaVideoProcessor(
        num_frames=2, size={"shortest_edge": 16}, crop_size=size, image_mean=[0.0] * 3, image_std=[1 / 255] * 3
    )
    processor.num_temporal_views = 3
    processor.num_spatial_views = 3
    read = encode_clips([sample, sample], processor).round()
    assert read.shape == (2, 9, 2, 3, 16, 16)
    assert torch.equal(read[0], read[1])
    shown = read[0].mean((2, 3, 4))  # (views, t)
    assert shown[0].tolist() == [0, 0] and shown[1].tolist() == [101, 105] and shown[2].tolist() == [201, 205]
    assert shown[4].tolist() == [102, 106] and shown[7].tolist() == [103, 107]


def test_views_are_part_of_the_recipe():
    assert PredictionArguments(num_temporal_views=4, num_spatial_views=3).recipe()["num_temporal_views"] == 4
    with pytest.raises(ValueError, match="num_temporal_views must be at least 1, got 0"):
        PredictionArguments(num_temporal_views=0)


def test_classes_of_another_dataset_are_refused():
    config = Model().config
    check_class_names(["left", "right", "still"], config)
    check_class_names(None, config)
    with pytest.raises(ValueError, match="class 1 of the model must be 'up', as in the dataset, got 'right'"):
        check_class_names(["left", "up", "still"], config)
    with pytest.raises(ValueError, match="classes of the model must be 2, as in the dataset, got 3"):
        check_class_names(["left", "right"], config)
    config.id2label = {number: f"LABEL_{number}" for number in range(3)}
    check_class_names(["a", "b", "c"], config)
    with pytest.raises(ValueError, match="classes of the model must be 4, as in the dataset, got 3"):
        check_class_names(["a", "b", "c", "d"], config)
