"""Drawn clips with a class each, tiny VideoMambas that tell them apart, and datasets of such clips as files."""

import io
from dataclasses import replace

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from hmba_hf.data.actions.samples import ActionSample, action_features, to_action_row
from hmba_hf.data.clips import write_video
from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.modeling_videomamba import VideoMambaForVideoClassification
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor

NAMES = ["left", "right", "still"]
SIDE = 16
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "image_size": SIDE, "patch_size": 8, "state_size": 4}


class Rows:
    """Stands for the rows of a dataset, which name its classes."""

    def __init__(self, names):
        self.features = {"label": type("Label", (), {"names": names})}


class Clips(list):
    """Drawn clips of a square that moves, or stands still."""

    def __init__(self, count, names=NAMES):
        super().__init__(self.draw(number, names) for number in range(count))
        self.rows = Rows(names)

    @staticmethod
    def draw(number, names):
        label = number % len(names)
        frames = []
        for step in range(4):
            picture = np.full((20, 24, 3), 30 + number, dtype=np.uint8)
            left = 10 + (step * (-2, 2, 0)[label % 3])
            picture[8:14, left : left + 5] = (200, 80, 40)
            frames.append(Image.fromarray(picture))
        return ActionSample(f"clip {number}", tuple(frames), label, names[label])


def save_base(folder, kind=VideoMambaForVideoClassification, names=NAMES, **changes):
    torch.manual_seed(0)
    values = {**SIZES, "num_frames": 2, "drop_path_rate": 0.2, "id2label": dict(enumerate(names)), **changes}
    kind(VideoMambaConfig(**values)).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    processor = VideoMambaVideoProcessor(num_frames=2, size={"shortest_edge": SIDE}, crop_size=size)
    processor.save_pretrained(folder)
    return folder


def write_dataset(folder, clips, split="test", broken=None, kind="mp4"):
    """Write drawn clips as files in rows of the Hub's schema; `broken` is the id of one that is none.

    With `kind="png"`, they are pictures.
    """
    rows = []
    for clip in clips:
        file = io.BytesIO()
        if kind == "png":
            clip.video[0].save(file, kind)
        else:
            write_video(file, clip.video, 4)
        content = file.getvalue()
        if clip.id == broken:
            content = b"no video"
        rows.append(to_action_row(replace(clip, video=content), f"{clip.id}.{kind}"))
    (folder / "data").mkdir(parents=True)
    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    Dataset.from_list(rows, features=action_features(NAMES)).to_parquet(path)
