"""A procedural driving world in which only motion shows which road user is the risk.

The best possible score of a weaker observer is known by construction:

| motion      | current frame | with the earlier frames, unordered | frames in order |
|-------------|---------------|------------------------------------|-----------------|
| `symmetric` | 1/K           | 1/2                                | 1               |
| `order`     | 1/K           | 1/K                                | 1               |
| `monotone`  | 1/K           | informative                        | 1               |

K is the number of road users. Results here do not transfer to real roads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..samples import BDDX_PARTS, BDDX_QUESTION, BOX_MARKER, RISK_QUESTION, Box, Sample, SampleSequence
from .drawing import (
    COLOURS,
    DEGRADATIONS,
    HORIZON,
    KINDS,
    Backdrop,
    Figure,
    degrade,
    draw_picture,
    random_backdrop,
)

SPLITS = ("train", "validation", "test")
MOTIONS = ("symmetric", "order", "monotone")
STILL_TASKS = ("where", "what")

_MANOEUVRES = {
    "car": "is cutting in",
    "truck": "is cutting in",
    "pedestrian": "is crossing",
    "cyclist": "is swerving in",
}


class EgoEvent(NamedTuple):
    """What the ego car does and why, with the motion of the road and of the others before the current frame.

    `speeds` are the first and the last advance of the road between two frames, 1 being one dash and its gap.
    `lead_nearness` and `pedestrian_inward` are the first places of those two, see `RoadUser.box`.
    """

    action: str
    justification: str
    speeds: tuple[float, float]
    lead_nearness: float = 1.0
    pedestrian_inward: float = 0.0


EGO_EVENTS = {
    "yield": EgoEvent(
        "The car slows down", "because a {pedestrian} is crossing the road", (0.45, 0.1), pedestrian_inward=-1.5
    ),
    "brake": EgoEvent("The car slows down", "because the {lead} ahead is braking", (0.45, 0.1), lead_nearness=0.7),
    "speed_up": EgoEvent(
        "The car speeds up", "because the {lead} ahead is driving off", (0.1, 0.45), lead_nearness=1.3
    ),
    "follow": EgoEvent("The car keeps its speed", "because the {lead} ahead keeps its distance", (0.3, 0.3)),
    "stop": EgoEvent("The car is stopped", "because the {lead} ahead is standing still", (0.0, 0.0)),
}

_PURPOSES = (
    "scene",
    "motion",
    "road",
    "nuisance",
    "degradation",
    "still",
    "ego",
    "event",
    "prediction",
)  # of random numbers
_REACH = 0.09  # how far a road user of scale 1 moves to either side, as a fraction of the frame
_GRID = 256  # boxes end on multiples of 1/256, so that they are exact in the drawn pictures
_FAR = 0.5  # y of the farthest place to stand
_NEAR = 0.97  # y of the nearest place to stand
_MARGIN = 0.012  # kept free around a road user
_NAMES = [(kind, colour) for kind in KINDS for colour in COLOURS]


@dataclass(frozen=True)
class MicroWorldConfig:
    """Everything but split and index that determines a clip.

    Args:
        seed: of the world.
        frame_size: width and height of a frame in pixels.
        num_objects: road users in a scene, K.
        num_frames: frames of a clip, the last one current.
        motion: `"symmetric"`: the risk swings away from the ego path and back, a twin does the same mirrored in time,
            the others sway evenly; `"order"`: each road user swerves in one frame, the risk last;
            `"monotone"`: the risk closes in at constant speed, a twin leaves, the others stay. The current frame is
            the same whatever the motion.
        pause: frames without motion before the current one, among the `num_frames`.
        nuisance: strength of exposure flicker, camera jitter and pixel noise. At 0 the road stands still, too;
            otherwise its phase is drawn for each frame.
        degradation: one of `DEGRADATIONS`, applied to the current frame with
        severity: from 0 to 1.
        fps: frames per second, for timestamps and video files.
    """

    seed: int = 0
    frame_size: int = 64
    num_objects: int = 4
    num_frames: int = 5
    motion: str = "symmetric"
    pause: int = 0
    nuisance: float = 1.0
    degradation: str | None = None
    severity: float = 0.5
    fps: float = 2.0

    def __post_init__(self) -> None:
        checks = {
            "seed": self.seed >= 0,
            "frame_size": self.frame_size >= 32,
            "num_objects": 2 <= self.num_objects <= 4,
            "motion": self.motion in MOTIONS,
            "pause": 0 <= self.pause,
            "nuisance": 0 <= self.nuisance < math.inf,
            "degradation": self.degradation is None or self.degradation in DEGRADATIONS,
            "severity": 0 <= self.severity <= 1,
            "fps": 0.01 <= self.fps <= 1000,
            "num_frames": self.num_frames >= 1,
        }
        whole = ("seed", "frame_size", "num_objects", "num_frames", "pause")
        for name, is_good in checks.items():
            if not is_good or (name in whole and not isinstance(getattr(self, name), int | np.integer)):
                raise ValueError(f"{name} must be a value that the micro-world can draw, got {getattr(self, name)!r}")
        moving = self.num_objects if self.motion == "order" else 2
        needed = 1 + self.pause + moving
        if self.num_frames < needed:
            raise ValueError(f"num_frames must be at least {needed} for {self.motion} motion, got {self.num_frames}")


@dataclass(frozen=True)
class RoadUser:
    """A road user in the current frame: `x` is its middle, `y` the ground it stands on."""

    kind: str
    colour: str
    x: float
    y: float

    @property
    def name(self) -> str:
        """Colour and kind, unique in its scene."""
        return f"{self.colour} {self.kind}"

    @property
    def side(self) -> str:
        """Side of the ego path on which it stands, `"left"` or `"right"`."""
        return "left" if self.x < 0.5 else "right"

    def box(self, inward: float = 0.0, nearness: float = 1.0) -> Box:
        """Return its box, `inward` reaches closer to the ego path and `nearness` times as large."""
        ground = HORIZON + (self.y - HORIZON) * nearness
        scale = _scale(self.y)
        direction = 1 if self.x < 0.5 else -1
        middle = self.x + direction * inward * _REACH * scale
        height, width = KINDS[self.kind]
        height = height * scale * nearness
        width = width * scale * nearness
        return _on_grid(middle - width / 2), _on_grid(ground - height), _on_grid(middle + width / 2), _on_grid(ground)


@dataclass(frozen=True)
class Scene:
    """The content of a clip without its noise.

    `inward` and `nearness`, both `(num_frames, num_objects)`, are the motion of each road user: see `RoadUser.box`.
    `users[risk]` is the answer, `users[twin]` its mirrored twin.
    """

    backdrop: Backdrop
    users: tuple[RoadUser, ...]
    risk: int
    twin: int
    inward: np.ndarray
    nearness: np.ndarray

    def figures(self, frame: int) -> list[Figure]:
        """The road users as frame number `frame` shows them."""
        return _figures(self.users, self.inward[frame].tolist(), self.nearness[frame].tolist())

    @property
    def boxes(self) -> list[Box]:
        """Boxes of all road users in the current frame."""
        return [user.box() for user in self.users]


class MicroWorld(SampleSequence[Sample]):
    """Clips of one split as `Sample`s of the risk task.

    With the same versions of numpy and pillow, a config, a split and an index give the same clip.
    """

    def __init__(self, config: MicroWorldConfig | None = None, split: str = "train", size: int = 1000):
        if split not in SPLITS or not isinstance(size, int | np.integer) or size < 0:
            raise ValueError(f"split must be of {SPLITS} and size a whole number from 0, got {split!r} and {size}")
        self.config = config or MicroWorldConfig()
        self.split = split
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read_sample(self, index: int) -> Sample:
        """Read clip `index` with the question for the risk; the answer has its name, its box and its manoeuvre."""
        scene = self.scene(index)
        user = scene.users[scene.risk]
        answer = f"The {user.name}{BOX_MARKER} {_MANOEUVRES[user.kind]} from the {user.side}."
        return Sample(
            id=self._name(self.config.motion, index),
            question=RISK_QUESTION,
            answer=answer,
            frames=self.frames(index, scene),
            tags=(f"motion: {self.config.motion}", f"risk: {user.kind}"),
            others=[box for number, box in enumerate(scene.boxes) if number != scene.risk],
            **self._marked(user),
        )

    def still_sample(self, index: int, task: str | None = None) -> Sample:
        """Read a single picture, the current frame of clip `index`, with a question about a road user in it.

        `task` is one of `STILL_TASKS`: `"where"` asks for the box of a road user, `"what"` for the name in a box. When
        absent it is drawn, `"where"` three times of four.
        """
        if task not in (None, *STILL_TASKS):
            raise ValueError(f"task must be of {STILL_TASKS}, got {task!r}")
        rng = self.rng(index, "still")
        drawn = str(rng.choice(STILL_TASKS, p=[0.75, 0.25]))
        scene = self.scene(index)
        user = scene.users[rng.integers(self.config.num_objects)]
        task = task or drawn
        if task == "where":
            question = f"Where is the {user.name}?"
            answer = f"The {user.name}{BOX_MARKER}."
        else:
            question = f"What is at {BOX_MARKER}?"
            answer = f"The {user.name}."
        frames = [self._scene_picture(index, scene, self.config.num_frames - 1)]
        return Sample(
            id=self._name(task, index), question=question, answer=answer, frames=frames, **self._marked(user)
        )

    def scene(self, index: int, risk: int | None = None) -> Scene:
        """Draw the content of clip `index`, with its own risk or with another road user as the risk.

        Another risk changes the motion alone: the current frame stays as it is. Exchanged with its twin, it gives
        the `symmetric` clip whose earlier frames run backwards.
        """
        self._check(index)
        if risk is not None and not 0 <= risk < self.config.num_objects:
            raise ValueError(f"risk must be from 0 to {self.config.num_objects - 1}, got {risk}")
        rng = self.rng(index, "scene")
        backdrop = random_backdrop(rng)
        users = _place_users(rng, self.config.num_objects)
        rng = self.rng(index, "motion")
        roles = rng.permutation(self.config.num_objects).tolist()
        if risk is not None:
            place = roles.index(risk)
            roles[place] = roles[0]
            roles[0] = risk
        inward, nearness = _motion(self.config, roles, rng)
        return Scene(backdrop, users, risk=roles[0], twin=roles[1], inward=inward, nearness=nearness)

    def ego_sample(self, index: int, event: str | None = None) -> Sample:
        """Read clip `index` with the question what the ego car does and why, in the two lines of a BDD-X answer.

        `event` is one of `EGO_EVENTS`, drawn when absent. Only the motion of the road, of a vehicle ahead and of a
        pedestrian beside the road shows it. The current frame is the same for every event.
        """
        self._check(index)
        if event not in (None, *EGO_EVENTS):
            raise ValueError(f"event must be of {tuple(EGO_EVENTS)}, got {event!r}")
        rng = self.rng(index, "ego")
        backdrop = random_backdrop(rng)
        last_phase = float(rng.random())
        lead, pedestrian = _place_traffic(rng)
        drawn = str(rng.choice(list(EGO_EVENTS)))
        happening = EGO_EVENTS[event or drawn]
        steps = self.config.num_frames - 1
        speeds = np.linspace(*happening.speeds, steps)
        frames = []
        for number in range(steps + 1):
            past = 1 - number / steps
            nearness = [1 + (happening.lead_nearness - 1) * past, 1.0]
            figures = _figures([lead, pedestrian], [0.0, happening.pedestrian_inward * past], nearness)
            phase = last_phase - float(speeds[number:].sum())
            frames.append(self._picture(index, number, backdrop, figures, phase))
        why = happening.justification.format(lead=lead.name, pedestrian=pedestrian.name)
        return Sample(
            id=f"{self.split}-ego-{self.config.seed}_{index}",
            question=BDDX_QUESTION,
            answer=f"{happening.action}\n{why}",
            frames=frames,
            split=self.split,
            parts=BDDX_PARTS,
        )

    def frames(self, index: int, scene: Scene) -> list[Image.Image]:
        """Draw a scene with the nuisances of clip `index`, oldest frame first."""
        return [self._scene_picture(index, scene, number) for number in range(self.config.num_frames)]

    def _scene_picture(self, index: int, scene: Scene, number: int) -> Image.Image:
        phase = 0.0
        if self.config.nuisance:
            phase = float(self.rng(index, "road", number).random())
        return self._picture(index, number, scene.backdrop, scene.figures(number), phase)

    def _picture(
        self, index: int, number: int, backdrop: Backdrop, figures: Sequence[Figure], phase: float
    ) -> Image.Image:
        config = self.config
        is_current = number == config.num_frames - 1
        rng = self.rng(index, "nuisance", number)
        flicker = float(rng.standard_normal())
        jitter = 0.0 if is_current else 0.006 * config.nuisance
        shift = np.clip(rng.standard_normal(2), -2, 2) * jitter
        picture = draw_picture(backdrop, figures, phase, (float(shift[0]), float(shift[1])), config.frame_size)
        if config.nuisance:
            noise = rng.standard_normal(picture.shape, np.float32) * (5 * config.nuisance)
            exposed = picture * np.float32(1 + 0.06 * flicker * config.nuisance) + noise
            picture = np.clip(exposed, 0, 255).astype(np.uint8)
        if is_current and config.degradation is not None:
            picture = degrade(picture, config.degradation, config.severity, self.rng(index, "degradation"))
        return Image.fromarray(picture)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.size:
            raise IndexError(f"an index must be from 0 to {self.size - 1}, got {index}")

    def _name(self, task: str, index: int) -> str:
        return f"{self.split}-{task}-{self.config.seed}-{index:06d}"

    def _marked(self, user: RoadUser) -> dict[str, Any]:
        return {"boxes": [user.box()], "labels": [user.name], "split": self.split}

    def rng(self, index: int, purpose: str, number: int = 0) -> np.random.Generator:
        """Return a generator for one split, clip, purpose and frame, so that no draw changes another."""
        key = (SPLITS.index(self.split), index, _PURPOSES.index(purpose), number)
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.config.seed, spawn_key=key)))


class TwoTaskWorld(SampleSequence[Sample]):
    """The clips of a world, by turns with the question for the risk and the question about the ego car."""

    def __init__(self, world: MicroWorld):
        self.world = world

    def __len__(self) -> int:
        return len(self.world)

    def read_sample(self, index: int) -> Sample:
        """Read the risk sample of an even clip, the ego sample of an odd one."""
        if index % 2:
            return self.world.ego_sample(index)
        return self.world[index]


def _figures(users: Sequence[RoadUser], inward: Sequence[float], nearness: Sequence[float]) -> list[Figure]:
    places = zip(users, inward, nearness, strict=True)
    return [Figure(user.kind, user.colour, user.box(moved, grown)) for user, moved, grown in places]


def _on_grid(edge: float) -> float:
    """Move an edge of a box to the nearest multiple of `1 / _GRID`."""
    return round(edge * _GRID) / _GRID


def _scale(y: float) -> float:
    """How large a road user that stands at height y appears."""
    return 0.75 + 0.45 * (y - _FAR) / (_NEAR - _FAR)


def _place_users(rng: np.random.Generator, number: int) -> tuple[RoadUser, ...]:
    """Draw road users of different names whose boxes are clear of each other in the current frame.

    They stand left and right of the ego path by turns, the second one of a side nearer than the first. Each has room
    to move to both sides, and may pass in front of one on the other side of the ego path.
    """
    names = rng.choice(_NAMES, number, replace=False).tolist()
    side = int(rng.choice([-1, 1]))
    users: list[RoadUser] = []
    for place, (lateral, depth) in enumerate(rng.random((number, 2)).tolist()):
        kind, colour = names[place]
        height, width = KINDS[kind]
        farthest = _FAR
        if place >= 2:
            farthest = _y_in_front(users[place - 2].y, height)
        nearest = _NEAR
        if place + 2 < number:
            nearest -= KINDS[names[place + 2][0]][0] * _scale(_NEAR) + 2 * _MARGIN
        y = farthest + (nearest - farthest) * depth
        inner = max(0.1, width / 2 * _scale(y) + _MARGIN)
        outer = 0.5 - (width / 2 + _REACH) * _scale(y) - _MARGIN
        users.append(RoadUser(kind, colour, 0.5 + side * (inner + (outer - inner) * lateral), y))
        side = -side
    return tuple(users)


def _y_in_front(y: float, height: float) -> float:
    """The farthest y at which a road user of `height` at scale 1 stays clear of one that stands at `y`."""
    growth = _scale(1.0) - _scale(0.0)
    return (y + 2 * _MARGIN + height * _scale(0.0)) / (1 - height * growth)


def _place_traffic(rng: np.random.Generator) -> tuple[RoadUser, RoadUser]:
    """Draw a vehicle ahead on the ego path and a pedestrian beside it."""
    colours = rng.choice(list(COLOURS), 2).tolist()
    kind = str(rng.choice(["car", "truck"]))
    side = int(rng.choice([-1, 1]))
    ahead, lateral, depth = rng.random(3).tolist()
    lead = RoadUser(kind, colours[0], 0.5, 0.64 + 0.1 * ahead)
    return lead, RoadUser("pedestrian", colours[1], 0.5 + side * (0.22 + 0.04 * lateral), 0.74 + 0.16 * depth)


def _motion(config: MicroWorldConfig, roles: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How far inward and how near each road user is, both `(num_frames, num_objects)`; `roles` begins with risk, twin.

    The cycle is counted back from its last frame, the first one of the pause, where nothing is displaced.
    """
    cycle = config.num_frames - config.pause
    inward = np.zeros((cycle, len(roles)))
    nearness = np.ones((cycle, len(roles)))
    risk, twin, *others = roles
    # Drawn by road user, not by role: another risk leaves them as they are.
    signs = rng.choice([-1.0, 1.0], len(roles))
    if config.motion == "symmetric":
        odd, even = _waves(cycle)
        inward[:, risk] = -odd
        inward[:, twin] = odd
        inward[:, others] = even[:, None] * signs[others]
    elif config.motion == "order":
        swerves = np.sort(rng.permutation(cycle - 1)[: len(roles)]) + 1
        inward[swerves, roles] = -1.0
    else:
        past = np.arange(cycle) / (cycle - 1)
        inward[:, risk] = -past
        inward[:, twin] = past
        nearness[:, risk] = 1 - 0.3 * past
    still_frames = (config.pause, len(roles))
    return (
        np.concatenate([inward[::-1], np.zeros(still_frames)]),
        np.concatenate([nearness[::-1], np.ones(still_frames)]),
    )


@cache
def _waves(cycle: int) -> tuple[np.ndarray, np.ndarray]:
    """One swing that changes its sign when the frames before the current one are reversed, and one that does not.

    Both `(cycle,)`, counted back from the current frame, where they are 0; the symmetry is exact, not up to rounding.
    """
    odd = np.zeros(cycle)
    even = np.zeros(cycle)
    for step in range(1, cycle // 2 + 1):
        odd[step] = math.sin(2 * math.pi * step / cycle)
        even[step] = (1 - math.cos(2 * math.pi * step / cycle)) / 2
        even[cycle - step] = even[step]
        odd[cycle - step] = -odd[step]
    if cycle % 2 == 0:
        odd[cycle // 2] = 0.0
    return odd, even
