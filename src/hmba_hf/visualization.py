"""Pictures of what went in and what came out, from plain images and arrays."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Picture = Image.Image
Section = str | Picture | Sequence[Mapping[str, Any]]

_PALETTE = ("#ff2d87", "#00a6ff", "#ffae00", "#22b573", "#9b5cff", "#ff6a3d")
# Blue to red through green and yellow: value, red, green, blue.
_HEAT = np.array(
    [[0, 48, 18, 120], [0.35, 20, 150, 190], [0.65, 130, 210, 70], [0.85, 250, 200, 40], [1, 230, 40, 30]]
)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c1e21; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #d8dbe0; }
img { max-width: 100%; border-radius: 4px; } p { white-space: pre-line; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem .3rem 0; text-align: left; }
th { border-bottom: 2px solid #1c1e21; } td { border-bottom: 1px solid #d8dbe0; font-variant-numeric: tabular-nums; }
"""


def draw_boxes(
    image: Picture, objects: Sequence[Mapping[str, Any]], colour: str | None = None, scale: int = 1
) -> Picture:
    """Draw boxes with their labels on a copy of an image.

    Args:
        image: the original frame.
        objects: `{"label": str, "box": {"xmin", "ymin", "xmax", "ymax"}}` in pixels, as `post_process_boxes` returns.
        colour: of all boxes; a colour of its own for each of them when absent.
        scale: how many times larger the copy is, so that labels fit on a small image.
    """
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 150))
    font = ImageFont.load_default(max(10, min(picture.size) / 22))
    for number, item in enumerate(objects):
        ink = colour or _PALETTE[number % len(_PALETTE)]
        left, top, right, bottom = (item["box"][edge] * scale for edge in ("xmin", "ymin", "xmax", "ymax"))
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=ink, width=width)
        _draw_label(draw, item.get("label", ""), (left, top), ink, font)
    return picture


def _draw_label(draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], ink: str, font: Any) -> None:
    """Write a label above the corner of its box, moved to where all of it can be seen."""
    if not text:
        return
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    canvas = draw.im.size
    x = max(0, min(corner[0], canvas[0] - width))
    y = max(0, corner[1] - height)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=ink)
    draw.text((x + 3 - left, y + 3 - top), text, fill="white", font=font)


def attention_overlay(image: Picture, weights: np.ndarray, opacity: float = 0.55) -> Picture:
    """Lay a map of weights over an image, blue where it is lowest, red where it is highest.

    Args:
        weights: `(rows, columns)`, of the picture from top left to bottom right, of any scale.
        opacity: of the map, from 0 to 1.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.ndim != 2 or not np.isfinite(weights).all():
        raise ValueError(f"expected finite weights of shape (rows, columns), got shape {weights.shape}")
    spread = np.ptp(weights)
    level = (weights - weights.min()) / (spread if spread > 0 else 1)
    small = Image.fromarray((level * 255).astype(np.uint8))
    level = np.asarray(small.resize(image.size, Image.Resampling.BICUBIC)) / 255  # (height, width)
    heat = np.stack([np.interp(level, _HEAT[:, 0], _HEAT[:, channel]) for channel in (1, 2, 3)], axis=-1)
    return Image.blend(image.convert("RGB"), Image.fromarray(heat.astype(np.uint8)), opacity)


def clip_strip(frames: Sequence[Picture], height: int = 160, gap: int = 4) -> Picture:
    """Put the frames of a clip side by side, oldest first, each scaled to `height`, with a line around the last."""
    if not frames:
        raise ValueError("expected at least one frame, got none")
    method = Image.Resampling.NEAREST if height >= 2 * frames[0].height else Image.Resampling.BICUBIC
    scaled = [
        frame.convert("RGB").resize((round(frame.width * height / frame.height), height), method) for frame in frames
    ]
    strip = Image.new(
        "RGB", (sum(frame.width for frame in scaled) + gap * (len(scaled) + 1), height + 2 * gap), "white"
    )
    x = gap
    for frame in scaled:
        strip.paste(frame, (x, gap))
        x += frame.width + gap
    current = (x - gap - scaled[-1].width - gap, 0, x - 1, height + 2 * gap - 1)
    ImageDraw.Draw(strip).rectangle(current, outline=_PALETTE[0], width=max(1, gap // 2))
    return strip


def plot_curves(curves: Mapping[str, Sequence[tuple[float, float]]], title: str, x_label: str = "step") -> Picture:
    """Plot named curves of `(x, y)` points in one picture; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plotting curves needs `pip install hmba-hf[demo]`") from error
    figure = Figure(figsize=(7, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x_label)
    for number, (name, points) in enumerate(curves.items()):
        axes.plot(*zip(*points, strict=True), label=name, color=_PALETTE[number % len(_PALETTE)], marker=".")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


def write_report(path: str | Path, title: str, sections: Mapping[str, Sequence[Section]]) -> Path:
    """Write one HTML file that holds everything it shows.

    Args:
        sections: heading to its contents, in order: a text becomes a paragraph, an image a picture, a list of
            mappings with equal keys a table.
    """
    parts = [f"<h1>{escape(title)}</h1>"]
    for heading, contents in sections.items():
        parts.append(f"<h2>{escape(heading)}</h2>")
        parts += [_to_html(content) for content in contents]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    path = Path(path)
    path.write_text(
        f"<!DOCTYPE html>\n<html><head>{head}</head>\n<body>\n{chr(10).join(parts)}\n</body></html>\n", "utf-8"
    )
    return path


def _to_html(content: Section) -> str:
    if isinstance(content, str):
        return f"<p>{escape(content)}</p>"
    if isinstance(content, Image.Image):
        file = io.BytesIO()
        content.save(file, format="PNG")
        return f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"></p>'
    header = "".join(f"<th>{escape(str(name))}</th>" for name in (content[0] if content else ()))
    rows = ["".join(f"<td>{_cell(value)}</td>" for value in row.values()) for row in content]
    return f"<table><tr>{header}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else escape(str(value))
