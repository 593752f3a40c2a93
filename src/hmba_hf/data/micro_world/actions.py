"""A procedural set of actions that only the order of the frames tells apart.

A disc with a pattern of rings and sectors moves, grows, turns, starts or stops. Each action has an opposite one, whose
clips are those of the first run backwards. Where the disc is, and how its pattern stands, is drawn evenly for every
frame: the disc leaves the picture on one side and comes back on the other, and as a ring grows out of it, another one
begins in its middle. So the best score of a weaker observer is known by construction:

| observer                     | accuracy                                   |
|------------------------------|--------------------------------------------|
| one frame                    | 1 / number of actions                      |
| all frames, in unknown order | 1/2, it cannot tell an action from its opposite |
| frames in order              | 1                                          |

Results here do not transfer to real videos.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..actions.samples import ActionSample, action_features
from ..samples import SampleSequence
from .drawing import COLOURS
from .world import SPLITS

LEAST_FRAMES = 4  # of a clip whose action shows
MICRO_ACTIONS = "micro-actions"
_OPPOSITES = {
    "moves left": "moves right",
    "moves up": "moves down",
    "grows": "shrinks",
    "turns clockwise": "turns anticlockwise",
    "starts": "stops",
}
ACTION_NAMES = tuple(name for pair in _OPPOSITES.items() for name in pair)
"""The actions in the order of their labels; opposite ones are neighbours."""

_DIRECTIONS = ((-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))  # x to the right, y down
_RINGS = 1.5  # from half the radius to the edge; two of them are a period
_SECTORS = 4  # two of them are a period, too
_INNERMOST = 0.15  # of the radius: there is no pattern within
_SAMPLES = 2  # per pixel and direction, averaged in the end
_PURPOSES = ("label", "scene", "nuisance", "bond", "prediction")  # of random numbers


@dataclass(frozen=True)
class MicroActionsConfig:
    """Everything but split and index that determines a clip.

    Args:
        seed: of the set.
        frame_size: width and height of a frame in pixels.
        num_frames: frames of a clip.
        nuisance: strength of exposure flicker and pixel noise.
    """

    seed: int = 0
    frame_size: int = 64
    num_frames: int = 8
    nuisance: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("frame_size", 16), ("num_frames", LEAST_FRAMES)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
        if not 0 <= self.nuisance < math.inf:
            raise ValueError(f"nuisance must be a number from 0 on, got {self.nuisance!r}")


class Disc(NamedTuple):
    """The disc as one frame shows it: its place in the unit square, and how its pattern is turned and grown.

    `turn` and `growth` are in periods of the pattern.
    """

    x: float
    y: float
    turn: float
    growth: float


class ActionScene(NamedTuple):
    """What a clip shows but for its action and its noise.

    Attributes:
        start: the disc in the middle of the clip.
        colours: of the background, and the two of the pattern, each `(r, g, b)`.
        radius: of the disc.
        speed: periods of motion over the whole clip.
        direction: in which a disc that starts or stops moves.
        rest: share of the clip for which it stands.
    """

    start: Disc
    colours: tuple[tuple[int, int, int], ...]
    radius: float
    speed: float
    direction: tuple[float, float]
    rest: float


def opposite_action(name: str) -> str:
    """Return the action whose clips are those of `name` run backwards."""
    return ACTION_NAMES[ACTION_NAMES.index(name) ^ 1]


class MicroActions(SampleSequence[ActionSample]):
    """Clips of one split as samples with frames.

    With the same versions of numpy and pillow, a config, a split and an index give the same clip.
    """

    def __init__(self, config: MicroActionsConfig | None = None, split: str = "train", size: int = 1000):
        if split not in SPLITS or not isinstance(size, int | np.integer) or size < 0:
            raise ValueError(f"split must be of {SPLITS} and size a whole number from 0, got {split!r} and {size}")
        self.config = config or MicroActionsConfig()
        self.split = split
        self.size = size

    def __len__(self) -> int:
        return self.size

    @property
    def features(self) -> Any:
        """The `datasets.Features` of its rows, which name its classes."""
        return action_features(ACTION_NAMES)

    def read_sample(self, index: int) -> ActionSample:
        """Read clip `index` with the action that is drawn for it."""
        return self.action_sample(index)

    def action_sample(self, index: int, action: str | None = None) -> ActionSample:
        """Read clip `index` with its own action or with another one.

        Raises:
            ValueError: if there is no such action.
        """
        if action not in (None, *ACTION_NAMES):
            raise ValueError(f"action must be of {list(ACTION_NAMES)}, got {action!r}")
        drawn = ACTION_NAMES[self.rng(index, "label").integers(len(ACTION_NAMES))]
        name = action or drawn
        return ActionSample(
            id=f"{self.split}-action-{self.config.seed}-{index:06d}",
            video=self.draw(index, name, draw_scene(self.rng(index, "scene"))),
            label=ACTION_NAMES.index(name),
            label_name=name,
            split=self.split,
        )

    def draw(self, index: int, action: str, scene: ActionScene) -> tuple[Image.Image, ...]:
        """Draw an action in a scene with the noise of clip `index`, oldest frame first."""
        rng = self.rng(index, "nuisance")
        frames = []
        for disc in move_disc(scene, action, self.config.num_frames):
            picture = draw_disc(scene, disc, self.config.frame_size)
            exposure = 1 + 0.06 * self.config.nuisance * rng.standard_normal()
            noise = 5 * self.config.nuisance * rng.standard_normal(picture.shape)
            frames.append(Image.fromarray(np.clip(picture * exposure + noise, 0, 255).astype(np.uint8)))
        return tuple(frames)

    def rng(self, index: int, purpose: str) -> np.random.Generator:
        """Return a generator for one clip and purpose of the split, so that no draw changes another."""
        key = (SPLITS.index(self.split), index, _PURPOSES.index(purpose))
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.config.seed, spawn_key=key)))


def draw_scene(rng: np.random.Generator) -> ActionScene:
    """Draw everything about a clip that its action does not decide."""
    colours = [COLOURS[name] for name in rng.permutation(list(COLOURS))[:3]]
    return ActionScene(
        start=Disc(*rng.random(4).tolist()),
        colours=tuple(colours),
        radius=float(rng.uniform(0.28, 0.38)),
        speed=float(rng.uniform(0.9, 1.5)),
        direction=_DIRECTIONS[rng.integers(len(_DIRECTIONS))],
        rest=float(rng.uniform(0.4, 0.6)),
    )


def move_disc(scene: ActionScene, action: str, num_frames: int) -> list[Disc]:
    """Return the disc as each frame of a clip shows it; an action and its opposite give the same ones, in reverse."""
    place = ACTION_NAMES.index(action)
    is_second = place % 2 == 1
    first = ACTION_NAMES[place - place % 2]
    discs = []
    for number in range(num_frames):
        past = num_frames - 1 - number if is_second else number
        discs.append(_moved(scene, first, past / num_frames))
    return discs


def _moved(scene: ActionScene, action: str, past: float) -> Disc:
    """The disc when `past` of the clip has gone by, for the first action of a pair."""
    start = scene.start
    way = scene.speed * past
    if action == "moves left":
        return start._replace(x=start.x - way)
    if action == "moves up":
        return start._replace(y=start.y - way)
    if action == "grows":
        return start._replace(growth=start.growth + way)
    if action == "turns clockwise":
        return start._replace(turn=start.turn + way)
    way = scene.speed * max(past - scene.rest, 0.0)
    return start._replace(x=start.x + scene.direction[0] * way, y=start.y + scene.direction[1] * way)


def draw_disc(scene: ActionScene, disc: Disc, size: int) -> np.ndarray:
    """Draw one frame without noise, `(size, size, 3)` in uint8; what leaves on one side comes in on the other."""
    side = size * _SAMPLES
    middles = (np.arange(side) + 0.5) / side
    x = (middles[None] - disc.x + 0.5) % 1 - 0.5  # from the disc, by the nearest way around
    y = (middles[:, None] - disc.y + 0.5) % 1 - 0.5
    distance = np.maximum(np.hypot(x, y) / scene.radius, _INNERMOST)
    ring = np.floor(_RINGS * np.log2(distance) - 2 * disc.growth)
    sector = np.floor(_SECTORS * np.arctan2(y, x) / (2 * math.pi) - 2 * disc.turn)
    tone = 1 + (ring + sector) % 2
    tone[distance > 1] = 0
    picture = np.array(scene.colours, dtype=np.float32)[tone.astype(int)]
    shown = picture.reshape(size, _SAMPLES, size, _SAMPLES, 3).mean(axis=(1, 3))
    return np.round(shown).astype(np.uint8)
