"""The pictures of the micro-world: a road seen from the ego car, drawn in the unit square.

Coordinates are fractions of the frame, x to the right and y down; `box` is `(x1, y1, x2, y2)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..samples import Box

HORIZON = 0.36
DASHES = 7  # per lane line, as far as they can be seen

COLOURS = {
    "red": (216, 36, 36),
    "blue": (36, 84, 224),
    "green": (28, 160, 66),
    "yellow": (248, 206, 36),
    "white": (246, 246, 246),
    "black": (26, 26, 32),
}
TONES = {
    "glass": (132, 168, 190),
    "light": (255, 118, 84),
    "plate": (222, 222, 214),
    "skin": (232, 184, 148),
    "trousers": (58, 62, 88),
    "tyre": (18, 18, 20),
    "spokes": (150, 152, 158),
}
# Height and width of a road user that stands where objects are drawn at scale 1.
KINDS = {"car": (0.18, 0.24), "truck": (0.28, 0.23), "pedestrian": (0.27, 0.13), "cyclist": (0.26, 0.19)}

# Each part: shape, tone ("body" and "shade" come from the road user's colour), points in the unit square of its box.
_SPRITES: dict[str, list[tuple[str, str, list[tuple[float, float]]]]] = {
    "car": [
        ("rectangle", "tyre", [(0.06, 0.8), (0.27, 1.0)]),
        ("rectangle", "tyre", [(0.73, 0.8), (0.94, 1.0)]),
        ("polygon", "shade", [(0.2, 0.0), (0.8, 0.0), (0.96, 0.46), (0.04, 0.46)]),
        ("polygon", "glass", [(0.25, 0.09), (0.75, 0.09), (0.85, 0.4), (0.15, 0.4)]),
        ("rectangle", "body", [(0.0, 0.42), (1.0, 0.86)]),
        ("rectangle", "shade", [(0.0, 0.76), (1.0, 0.86)]),
        ("rectangle", "light", [(0.03, 0.5), (0.19, 0.63)]),
        ("rectangle", "light", [(0.81, 0.5), (0.97, 0.63)]),
        ("rectangle", "plate", [(0.39, 0.56), (0.61, 0.68)]),
    ],
    "truck": [
        ("rectangle", "tyre", [(0.06, 0.8), (0.32, 1.0)]),
        ("rectangle", "tyre", [(0.68, 0.8), (0.94, 1.0)]),
        ("rectangle", "shade", [(0.0, 0.0), (1.0, 0.9)]),
        ("rectangle", "body", [(0.06, 0.05), (0.46, 0.76)]),
        ("rectangle", "body", [(0.54, 0.05), (0.94, 0.76)]),
        ("rectangle", "light", [(0.05, 0.8), (0.2, 0.87)]),
        ("rectangle", "light", [(0.8, 0.8), (0.95, 0.87)]),
    ],
    "pedestrian": [
        ("polygon", "trousers", [(0.2, 0.55), (0.5, 0.55), (0.4, 1.0), (0.1, 1.0)]),
        ("polygon", "trousers", [(0.5, 0.55), (0.8, 0.55), (0.9, 1.0), (0.6, 1.0)]),
        ("polygon", "body", [(0.18, 0.22), (0.82, 0.22), (1.0, 0.6), (0.0, 0.6)]),
        ("ellipse", "skin", [(0.25, 0.0), (0.75, 0.24)]),
    ],
    "cyclist": [
        ("ellipse", "tyre", [(0.0, 0.6), (0.47, 1.0)]),
        ("ellipse", "tyre", [(0.53, 0.6), (1.0, 1.0)]),
        ("ellipse", "spokes", [(0.1, 0.69), (0.37, 0.91)]),
        ("ellipse", "spokes", [(0.63, 0.69), (0.9, 0.91)]),
        ("polygon", "trousers", [(0.22, 0.5), (0.5, 0.5), (0.58, 0.86), (0.42, 0.86)]),
        ("polygon", "body", [(0.18, 0.56), (0.34, 0.18), (0.66, 0.18), (0.9, 0.5), (0.8, 0.58), (0.56, 0.56)]),
        ("ellipse", "skin", [(0.5, 0.0), (0.84, 0.22)]),
        ("polygon", "body", [(0.48, 0.1), (0.58, 0.0), (0.76, 0.0), (0.86, 0.1)]),
    ],
}


class Figure(NamedTuple):
    """One road user as it is drawn: what it is and where it is."""

    kind: str
    colour: str
    box: Box


@dataclass(frozen=True)
class Backdrop:
    """What stands still: colours of sky and verge, and buildings `(left, right, top, grey)` on the horizon."""

    sky: tuple[int, int, int]
    verge: tuple[int, int, int]
    skyline: tuple[tuple[float, float, float, int], ...]


def random_backdrop(rng: np.random.Generator) -> Backdrop:
    """Draw the colours and the skyline of a scene."""
    sky = np.array([170, 196, 222]) + rng.integers(-18, 19)
    verge = np.array([134, 140, 112]) + rng.integers(-14, 15, 3)
    edges = np.linspace(-0.05, 1.05, 10) + rng.uniform(-0.03, 0.03, 10)
    tops = HORIZON - rng.uniform(0.02, 0.16, 9)
    greys = rng.integers(128, 176, 9)
    skyline = zip(edges[:-1].tolist(), edges[1:].tolist(), tops.tolist(), greys.tolist(), strict=True)
    return Backdrop(tuple(sky.tolist()), tuple(verge.tolist()), tuple(skyline))


def draw_picture(
    backdrop: Backdrop,
    figures: Sequence[Figure],
    road_phase: float,
    camera: tuple[float, float],
    size: int,
) -> np.ndarray:
    """Draw one frame without noise, `(size, size, 3)` in uint8.

    `road_phase` moves the dashes of the lane lines toward the viewer, 1 being one dash and its gap; `camera` shifts
    the whole view.
    """
    samples = max(2, 256 // size)  # per pixel and direction, averaged in the end
    side = size * samples
    canvas = Image.new("RGB", (side, side), backdrop.sky)
    draw = ImageDraw.Draw(canvas)
    dx = round(camera[0] * side)
    dy = round(camera[1] * side)

    def place(points: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
        return [(round(x * side) + dx, round(y * side) + dy) for x, y in points]

    for left, right, top, grey in backdrop.skyline:
        draw.rectangle(place([(left, top), (right, HORIZON)]), (grey, grey, grey + 8))
    draw.rectangle(place([(-0.2, HORIZON), (1.2, 1.2)]), backdrop.verge)
    for tone, points in _road():
        draw.polygon(place(points), tone)
    for points in _dashes(road_phase):
        draw.polygon(place(points), (226, 226, 220))
    for figure in sorted(figures, key=lambda figure: figure.box[3]):
        _draw_figure(draw, figure, dx, dy, side)
    return np.asarray(canvas.reduce(samples))


def _draw_figure(draw: ImageDraw.ImageDraw, figure: Figure, dx: int, dy: int, side: int) -> None:
    left, top, right, bottom = [round(value * side) for value in figure.box]
    body = COLOURS[figure.colour]
    tones = TONES | {"body": body, "shade": tuple(int(0.72 * value) for value in body)}
    width = right - left - 1  # the last pixel of a shape is drawn
    height = bottom - top - 1
    for shape, tone, points in _SPRITES[figure.kind]:
        placed = [(left + dx + round(x * width), top + dy + round(y * height)) for x, y in points]
        getattr(draw, shape)(placed, tones[tone])


def _across(y: float, offset: float) -> float:
    """The x of the line that leaves the picture's lower edge `offset` right of its middle, at height y."""
    return 0.5 + offset * (y - HORIZON) / (1 - HORIZON)


@cache
def _road() -> list[tuple[tuple[int, int, int], list[tuple[float, float]]]]:
    """Surface and edge lines of the road, as coloured polygons."""
    low = 1.2

    def strip(first: float, second: float) -> list[tuple[float, float]]:
        return [(0.5, HORIZON), (_across(low, first), low), (_across(low, second), low)]

    surface = (112, 114, 120)
    return [(surface, strip(-0.9, 0.9)), ((214, 214, 206), strip(-0.86, -0.82)), ((214, 214, 206), strip(0.82, 0.86))]


def _dashes(phase: float) -> list[list[tuple[float, float]]]:
    """The dashes of the two lines beside the ego lane, as polygons in perspective."""
    polygons = []
    for number in range(-1, DASHES):
        far = max(number + 0.5 - phase % 1, -0.25)
        near = max(number - phase % 1, -0.25)
        if far == near:
            continue
        top = _height_at(far)
        bottom = _height_at(near)
        for line in (-0.3, 0.3):
            left = line - 0.016
            right = line + 0.016
            top_edge = [(_across(top, left), top), (_across(top, right), top)]
            bottom_edge = [(_across(bottom, right), bottom), (_across(bottom, left), bottom)]
            polygons.append(top_edge + bottom_edge)
    return polygons


def _height_at(distance: float) -> float:
    """The y at which the road shows what is so many dashes away."""
    return HORIZON + (1 - HORIZON) / (1 + 0.6 * distance)


def _blur(picture: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.08 * severity * len(picture)))
    return np.asarray(blurred)


def _occlude(picture: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Splash mud over `0.7 * severity` of the picture, wherever it falls."""
    size = len(picture)
    mud = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mud)
    while np.mean(np.asarray(mud) > 0) < 0.7 * severity:
        x = rng.random() * size
        y = rng.random() * size
        radius = rng.uniform(0.06, 0.14) * size
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), 255)
    return np.where(np.asarray(mud)[..., None] > 0, np.array([78, 66, 52], np.uint8), picture)


def _darken(picture: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    return (picture * (1 - 0.95 * severity)).astype(np.uint8)


def _add_noise(picture: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(picture.shape, np.float32) * (100 * severity)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


DEGRADATIONS = {"blur": _blur, "occlusion": _occlude, "darkness": _darken, "noise": _add_noise}


def degrade(picture: np.ndarray, kind: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Degrade a picture `(h, w, 3)` by one of `DEGRADATIONS`, severity 0 (not at all) to 1 (almost wholly)."""
    return DEGRADATIONS[kind](picture, severity, rng)
