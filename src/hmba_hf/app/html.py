"""Pictures and texts as HTML, for what Gradio's own components do not show as it should be."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

_SIDE = 960  # most pixels of the longer side of a picture in a page


def picture_html(picture: Image.Image, alt: str) -> str:
    """Return a picture as an element that holds it, as JPEG."""
    shown = picture.convert("RGB")
    shown.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{data}">'


def frames_html(pictures: Sequence[Image.Image], times: Sequence[float]) -> str:
    """Return frames with their times, in rows that fit the page."""
    figures = []
    for picture, seconds in zip(pictures, times, strict=True):
        small = picture.copy()
        small.thumbnail((240, 240))
        shown = picture_html(small, f"frame at {seconds:.2f} s")
        figures.append(f"<figure>{shown}<figcaption>{seconds:.2f} s</figcaption></figure>")
    return f'<div class="frames" role="group" aria-label="frames that were read">{"".join(figures)}</div>'


def screen_html(picture: Image.Image, subtitle: str, alt: str) -> str:
    """Return a picture with a subtitle on it, which readers of screens read out when it changes."""
    shown = f'<figcaption aria-live="polite">{escape(subtitle)}</figcaption>'
    return f'<figure class="screen">{picture_html(picture, alt)}{shown}</figure>'


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts."""
    lines = ["".join(f"<th scope='col'>{escape(name)}</th>" for name in head)]
    for row in rows:
        lines.append("".join(f"<td>{escape(text)}</td>" for text in row))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
