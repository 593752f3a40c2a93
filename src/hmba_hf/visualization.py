"""Pictures of inputs and answers, plots and reports, from plain images and numbers."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .installation import missing_extra

Picture = Image.Image
Section = str | Picture | Sequence[Mapping[str, Any]]

_PALETTE = ("#ff2d87", "#00a6ff", "#ffae00", "#22b573", "#9b5cff", "#ff6a3d")
_GREY = "#6b7280"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c1e21; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #d8dbe0; }
img { max-width: 100%; border-radius: 4px; } p { white-space: pre-line; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem .3rem 0; text-align: left; }
th { border-bottom: 2px solid #1c1e21; } td { border-bottom: 1px solid #d8dbe0; font-variant-numeric: tabular-nums; }
"""


def draw_boxes(image: Picture, objects: Sequence[Mapping[str, Any]], scale: float = 1.0) -> Picture:
    """Draw boxes with their labels on a copy of an image, each in a colour of its own.

    Args:
        image: the original frame.
        objects: `{"label": str, "box": {"xmin", "ymin", "xmax", "ymax"}}` in pixels, as `post_process_boxes` returns.
        scale: size of the copy relative to the image.
    """
    picture = _scaled(image, scale)
    draw = ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 150))
    font = ImageFont.load_default(max(10, min(picture.size) / 22))
    for number, item in enumerate(objects):
        ink = _PALETTE[number % len(_PALETTE)]
        box = item["box"]
        left = round(box["xmin"] * scale)
        top = round(box["ymin"] * scale)
        right = round(box["xmax"] * scale)
        bottom = round(box["ymax"] * scale)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=ink, width=width)
        _draw_label(draw, item.get("label", ""), (left, top), ink=ink, font=font)
    return picture


def _scaled(image: Picture, scale: float) -> Picture:
    size = (round(image.width * scale), round(image.height * scale))
    method = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.BICUBIC
    return image.convert("RGB").resize(size, method)


def _draw_label(draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], ink: str, font: Any) -> None:
    """Write a label above the corner of its box, moved so that all of it is visible."""
    if not text:
        return
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width = right - left + 6
    height = bottom - top + 6
    canvas_width, _ = draw.im.size
    x = max(0, min(corner[0], canvas_width - width))
    y = max(0, corner[1] - height)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=ink)
    draw.text((x + 3 - left, y + 3 - top), text, fill="white", font=font)


def draw_answer(
    frames: Sequence[Picture],
    times: Sequence[float],
    question: str,
    answer: str,
    objects: Sequence[Mapping[str, Any]],
    width: int = 960,
    name: str = "Answer",
) -> Picture:
    """Draw an answer on one page: the current frame with its boxes, the texts beside it, the earlier frames below.

    Args:
        frames: of one size, oldest first, the last one current.
        times: of the frames, in seconds.
        question, answer: text.
        objects: boxes of the answer, as in `draw_boxes`.
        width: of the page in pixels.
        name: of who answers, such as that of a model's family.
    """
    if not frames or len(times) != len(frames):
        raise ValueError(f"frames must each have a time, got {len(frames)} frames and {len(times)} times")
    gap = width // 60
    width -= 2 * gap
    shown = draw_boxes(frames[-1], objects, 0.62 * width / max(frames[-1].size))
    column = width - shown.width - 2 * gap
    texts = _write_column([(f"At {times[-1]:.2f} s", question), (name, answer)], column)
    number = max(len(frames) - 1, 1)
    cell = min((width - (number - 1) * gap) / number, shown.width / 2)
    past = [_scaled(frame, cell / frame.width) for frame in frames[:-1]]
    below = max(shown.height, texts.height)
    height = below
    if past:
        height += past[0].height + gap + 24
    page = Image.new("RGB", (width, height), "white")
    page.paste(shown, (0, 0))
    page.paste(texts, (shown.width + 2 * gap, 0))
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(14)
    y = below + gap
    for place, frame in enumerate(past):
        x = round(place * (cell + gap))
        page.paste(frame, (x, y))
        draw.text((x, y + frame.height + 4), f"{times[place] - times[-1]:+.2f} s", fill=_GREY, font=font)
    return ImageOps.expand(page, gap, "white")


def draw_moment(frame: Picture, seconds: float, text: str, objects: Sequence[Mapping[str, Any]]) -> Picture:
    """Draw a frame of a drive with the boxes of the last answer, and its time and text on a strip below."""
    picture = draw_boxes(frame, objects)
    strip = Image.new("RGB", (picture.width, picture.height + 40), "black")
    strip.paste(picture, (0, 0))
    ImageDraw.Draw(strip).text((6, picture.height + 4), f"{seconds:7.2f} s\n{text[:120]}", fill="white")
    return strip


def draw_attention(image: Picture, maps: Mapping[str, Any], cell: int = 220) -> Picture:
    """Draw the query's attention to each context over the frame: a row for each branch, a column for each stride.

    A patch is the brighter the more attention goes to it, on one scale for all contexts.

    Args:
        image: the current frame, as the vision tower sees it.
        maps: `{"branch/stride_n": (h, w)}`, arrays that sum to 1 together; `(1, 1)` for a context of one token.
        cell: width of a map in pixels.

    Raises:
        ValueError: if there are no maps.
    """
    if not maps:
        raise ValueError("the attention must be to some context, got none")
    branches = list(dict.fromkeys(name.split("/")[0] for name in maps))
    strides = list(dict.fromkeys(name.split("/")[1] for name in maps))
    grey = _scaled(image, cell / image.width).convert("L").point([value // 2 for value in range(256)]).convert("RGB")
    brightest = max((float(weights.max()) for weights in maps.values() if weights.size > 1), default=1.0)
    font = ImageFont.load_default(15)
    gap = 12
    head = 44
    row = head + grey.height + gap
    page = Image.new("RGB", (len(strides) * (cell + gap) - gap, len(branches) * row - gap), "white")
    draw = ImageDraw.Draw(page)
    for name, weights in maps.items():
        branch, stride = name.split("/")
        x = strides.index(stride) * (cell + gap)
        y = branches.index(branch) * row
        share = f"{stride.replace('_', ' ')}: {float(weights.sum()):.1%}"
        if weights.size == 1:
            share += ", one token"
        draw.text((x, y + 2), f"{branch.replace('_', ' ')}\n{share}", fill="#1c1e21", font=font, spacing=4)
        page.paste(_lit(grey, weights, brightest), (x, y + head))
    return ImageOps.expand(page, gap, "white")


def _lit(grey: Picture, weights: Any, brightest: float) -> Picture:
    """Colour the patches of a dark frame by their weights; one token lights no patch."""
    if weights.size == 1:
        return grey
    levels = (weights * (255 / brightest)).clip(0, 255).astype("uint8")
    mask = Image.fromarray(levels).resize(grey.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", grey.size, "#ffcf33"), grey, mask)


def draw_clip(frames: Sequence[Picture], paragraphs: Sequence[tuple[str, str]], width: int = 960) -> Picture:
    """Draw a clip on one page: its frames in a row, eight of them at most, and texts below.

    Args:
        frames: of one size, oldest first.
        paragraphs: headings and their texts.
        width: of the page in pixels.

    Raises:
        ValueError: if there are no frames.
    """
    if not frames:
        raise ValueError("a clip must have frames, got none")
    gap = width // 60
    inner = width - 2 * gap
    number = min(len(frames), 8)
    places = [round(place * (len(frames) - 1) / max(number - 1, 1)) for place in range(number)]
    cell = min((inner - (number - 1) * gap) / number, inner / 3)
    shown = [_scaled(frames[place], cell / frames[place].width) for place in places]
    texts = _write_column(paragraphs, inner)
    page = Image.new("RGB", (inner, shown[0].height + gap + texts.height), "white")
    for place, frame in enumerate(shown):
        page.paste(frame, (round(place * (cell + gap)), 0))
    page.paste(texts, (0, shown[0].height + gap))
    return ImageOps.expand(page, gap, "white")


def _write_column(paragraphs: Sequence[tuple[str, str]], width: int) -> Picture:
    """Write headings and their texts, wrapped to a column."""
    small = ImageFont.load_default(14)
    large = ImageFont.load_default(19)
    column = Image.new("RGB", (width, 10_000), "white")
    draw = ImageDraw.Draw(column)
    y = 0.0
    for heading, text in paragraphs:
        draw.text((0, y), heading, fill=_GREY, font=small)
        lines = "\n".join(wrap(text, max(8, int(width / large.getlength("n")))))
        draw.multiline_text((0, y + 22), lines, fill="#1c1e21", font=large, spacing=7)
        y = draw.multiline_textbbox((0, y + 22), lines, font=large, spacing=7)[3] + 28
    return column.crop((0, 0, width, round(y) - 28))


def plot_curves(curves: Mapping[str, Sequence[tuple[float, float]]], title: str, x_label: str = "step") -> Picture:
    """Plot named curves of `(x, y)` points in one picture; needs matplotlib."""
    figure = _figure()
    axes = figure.add_subplot(title=title, xlabel=x_label)
    for number, (name, points) in enumerate(curves.items()):
        axes.plot(*zip(*points, strict=True), label=name, color=_PALETTE[number % len(_PALETTE)], marker=".")
    return _finish(figure)


def plot_panels(curves: Mapping[str, Sequence[tuple[float, float]]], title: str, x_label: str = "step") -> Picture:
    """Plot each named curve of `(x, y)` points in a panel of its own, at its own scale; needs matplotlib."""
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure = _figure(max(7.0, 2.4 * columns), 1.7 * rows + 0.6)
    figure.suptitle(title)
    for number, (name, points) in enumerate(curves.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.plot(*zip(*points, strict=True), color=_PALETTE[0], marker=".")
        axes.set_title(name, fontsize="medium")
        axes.locator_params("x", nbins=4, integer=True)
    figure.supxlabel(x_label, fontsize="medium")
    return _finish(figure)


def plot_bars(bars: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Picture:
    """Plot `{series: {group: values}}` as groups of bars: a bar for the mean of the values, a dot for each of them.

    Needs matplotlib.
    """
    figure = _figure()
    axes = figure.add_subplot(title=title)
    groups = list(dict.fromkeys(chain.from_iterable(bars.values())))
    width = 0.8 / max(len(bars), 1)
    for number, (name, series) in enumerate(bars.items()):
        colour = _PALETTE[number % len(_PALETTE)]
        label: str | None = name
        for group, values in series.items():
            x = groups.index(group) + (number - (len(bars) - 1) / 2) * width
            axes.bar(x, sum(values) / len(values), width, color=colour, alpha=0.5, label=label)
            axes.plot([x] * len(values), values, ".", color=colour)
            label = None  # one entry in the legend
    axes.set_xticks(range(len(groups)), groups)
    return _finish(figure, loc="upper left", bbox_to_anchor=(1, 1))


def _figure(width: float = 7, height: float = 3.6) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("plotting curves needs", "demo") from error
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _finish(figure: Any, **legend: Any) -> Picture:
    """Add a grid to the axes of a figure, and a legend if they have labels, and draw the figure."""
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        _, labels = axes.get_legend_handles_labels()
        if labels:
            axes.legend(frameon=False, **legend)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


def write_report(path: str | Path, title: str, sections: Mapping[str, Sequence[Section]]) -> Path:
    """Write one HTML file with all its pictures inside.

    Args:
        sections: heading to its contents, in order: a text becomes a paragraph, an image a picture, a list of
            mappings with equal keys a table.
    """
    parts = [f"<h1>{escape(title)}</h1>"]
    for heading, contents in sections.items():
        parts.append(f"<h2>{escape(heading)}</h2>")
        parts.extend(map(_to_html, contents))
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
        data = base64.b64encode(file.getvalue()).decode()
        return f'<p><img alt="" src="data:image/png;base64,{data}"></p>'
    header = ""
    if content:
        header = "".join(f"<th>{escape(str(name))}</th>" for name in content[0])
    rows = [f"<tr>{header}</tr>"]
    for row in content:
        cells = "".join(f"<td>{_cell(value)}</td>" for value in row.values())
        rows.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return escape(str(value))
