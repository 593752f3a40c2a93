"""A picture of a clip and of what a model makes of it, such as that on a card."""

from typing import Any

from PIL import Image

from ...data.actions.training_clips import draw_frames, video_of
from ...visualization import draw_clip
from .encoding import Classified, clip_processor, takes_clips
from .questions import AskedSample, describe

_SHOWN = 3  # classes of a head


def draw_classified(sample: Classified, prediction: Any, processor: Any, name: str) -> Image.Image | None:
    """Draw a sample with the classes that a model names, and with what it was asked.

    Args:
        prediction: as `Heads.best` returns it.
        processor: of clips, alone or beside a tokenizer; `None` is returned for one of pictures.
        name: of who answers.

    Raises:
        OSError, ValueError: if the video of the sample cannot be read.
    """
    if not takes_clips(processor):
        return None
    frames = draw_frames(video_of(sample), clip_processor(processor), None)
    if not isinstance(sample, AskedSample):
        return draw_clip(frames, [(name, _listed(prediction)), ("Right answer", sample.label_name or "not known")])
    source = describe(sample.asking.source, sample.asking.hide_words)
    paragraphs = []
    for head, text in sample.texts().items():
        paragraphs.append((f"Question for {head} ({source})", text or "nothing"))
        paragraphs.append((name, _listed(prediction["heads"][head])))
        paragraphs.append(("Right answer", sample.answers()[head] or "not known"))
    return draw_clip(frames, paragraphs)


def _listed(classes: list[dict[str, Any]]) -> str:
    """Write the likeliest classes with their probabilities."""
    return ", ".join(f"{item['label']} {item['score']:.2f}" for item in classes[:_SHOWN])
