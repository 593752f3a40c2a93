"""Train a tiny CLIP tower on drawn pictures: a teacher for masked pre-training where no weights of a CLIP are at hand.

    python benchmarks/drawn_teacher.py --output_dir drawn-clip

Each of its tokens, class token and patches, learns to tell colours, place, turn and growth of the disc of a picture.
It prints the shares of right colours, and of the variance of place, turn and growth that is explained.
`action_learning.py` trains it, too.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import trange
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, set_seed

from hmba_hf.data.actions.training_clips import to_pixels
from hmba_hf.data.micro_world.actions import Disc, draw_disc, draw_scene
from hmba_hf.data.micro_world.drawing import COLOURS
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor

SIDE = 32  # of a picture in pixels
PATCH = 16
CLIP_SIZE = 64  # channels of its features
PALETTE = list(COLOURS.values())


def as_pixels(frames: Sequence[Image.Image]) -> Tensor:
    """Return frames as VideoMamba's processor normalises them, `(t, 3, h, w)`."""
    return to_pixels(frames, VideoMambaVideoProcessor.image_mean, VideoMambaVideoProcessor.image_std)


class Pictures(NamedTuple):
    """Drawn pictures, and what there is to tell about each.

    Attributes:
        pixels: `(n, 3, h, w)`.
        colours: numbers of the colours of background and pattern, `(n, 2)`. The two of a pattern have one number.
        phases: place, turn and growth as points on circles, `(n, 8)`.
    """

    pixels: Tensor
    colours: Tensor
    phases: Tensor

    @classmethod
    def draw(cls, count: int, seed: int) -> "Pictures":
        """Draw pictures of discs, with the noise of clips."""
        rng = np.random.default_rng(seed)
        pictures = []
        colours = []
        discs = []
        for _ in trange(count, desc="drawing pictures", leave=False):
            scene = draw_scene(rng)
            disc = Disc(*rng.random(4).tolist())
            noisy = draw_disc(scene, disc, SIDE) + 5 * rng.standard_normal((SIDE, SIDE, 3))
            pictures.append(Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)))
            background, *pattern = [PALETTE.index(colour) for colour in scene.colours]
            colours.append((background, min(pattern) * len(PALETTE) + max(pattern)))
            discs.append(disc)
        pixels = as_pixels(pictures)
        angles = 2 * math.pi * torch.tensor(discs)
        return cls(pixels, torch.tensor(colours), torch.cat([angles.sin(), angles.cos()], dim=1))

    def some(self, count: int) -> "Pictures":
        """Draw a batch of them."""
        chosen = torch.randint(len(self.pixels), (count,))
        return Pictures(self.pixels[chosen], self.colours[chosen], self.phases[chosen])


class PictureTeller(nn.Module):
    """A tiny CLIP tower with linear heads, by which each of its tokens learns to tell what the picture shows."""

    def __init__(self) -> None:
        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=CLIP_SIZE,
            intermediate_size=2 * CLIP_SIZE,
            projection_dim=CLIP_SIZE,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
        )
        self.tower = CLIPVisionModelWithProjection(config)
        self.background = nn.Linear(CLIP_SIZE, len(PALETTE))
        self.pattern = nn.Linear(CLIP_SIZE, len(PALETTE) ** 2)
        self.phases = nn.Linear(CLIP_SIZE, 8)

    def forward(self, pictures: Pictures) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, and what the class token gets right."""
        hidden_states = self.tower.vision_model(pictures.pixels).last_hidden_state
        features = nn.functional.normalize(self.tower.visual_projection(hidden_states), dim=-1)  # (n, 1 + p, c)
        features = features * CLIP_SIZE**0.5
        phases = self.phases(features)
        loss = nn.functional.mse_loss(phases, pictures.phases[:, None].expand_as(phases))
        right = {}
        heads = {"background": self.background, "pattern": self.pattern}
        for place, (name, head) in enumerate(heads.items()):
            logits = head(features)
            wanted = pictures.colours[:, place]
            every = wanted[:, None].expand(logits.shape[:2])
            loss = loss + 0.2 * nn.functional.cross_entropy(logits.flatten(0, 1), every.flatten())
            hits = logits[:, 0].argmax(dim=-1) == wanted
            right[name] = hits.float().mean().item()
        missed = (phases[:, 0] - pictures.phases).square().mean(dim=0) / pictures.phases.var(dim=0)
        explained = 1 - missed.unflatten(0, (2, 4)).mean(dim=0)
        for name, share in zip(Disc._fields, explained.tolist(), strict=True):
            right[name] = share
        return loss, right


def train_tower(folder: Path, steps: int, pictures: int) -> dict[str, float]:
    """Train the tower and save it; return what its class token tells about new pictures.

    Args:
        folder: for the tower.
        steps: of 64 pictures each.
        pictures: that there are to learn from.

    Returns:
        The shares of right colours, and of the variance of place, turn and growth that is explained.
    """
    set_seed(0)
    teller = PictureTeller()
    drawn = Pictures.draw(pictures, seed=1)
    optimizer = torch.optim.AdamW(teller.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in trange(steps, desc="tower", leave=False):
        loss, _ = teller(drawn.some(64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    teller.tower.save_pretrained(folder)
    with torch.no_grad():
        _, right = teller.eval()(Pictures.draw(500, seed=2))
    return right


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="of 64 pictures each")
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--output_dir", type=Path, required=True, help="for the tower")
    options = parser.parse_args()
    print(train_tower(options.output_dir, options.steps, options.pictures))
