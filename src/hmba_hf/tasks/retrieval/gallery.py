"""Every video of a split against every text of it, by their features, and the best of them read together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...data.actions.training_clips import video_of
from ...data.bad_samples import READ_ERRORS, BadSamples
from ...metrics.retrieval import retrieval_ranks
from ...models.layers_contrast import similarities
from .pairs import caption_of, video_name_of

UNREAD = -100.0  # score of a pair that is not read together, as in the released code
NUM_KEPT = 5  # best items of a prediction


@dataclass
class Gallery:
    """The features of the pairs of a split.

    Attributes:
        ids: of the samples.
        captions, video_names: of each.
        video_embeds: `(n, t, c)`; `text_embeds`: `(n, c)`.
        patches: of each video, `(visible, d)`; `text_states`: of each text, `(l, d)`. Both only for reading together.
        errors: why a sample could not be read, by its index.
    """

    ids: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    video_names: list[str] = field(default_factory=list)
    video_embeds: list[Tensor] = field(default_factory=list)
    text_embeds: list[Tensor] = field(default_factory=list)
    patches: list[Tensor] = field(default_factory=list)
    text_states: list[Tensor] = field(default_factory=list)
    errors: dict[int, Exception] = field(default_factory=dict)

    def matches(self) -> np.ndarray:
        """Return which texts fit which videos, `(videos, texts)`: their own, and equal ones."""
        captions = np.array(self.captions)
        names = np.array(self.video_names)
        return (captions[:, None] == captions[None]) | (names[:, None] == names[None])

    def similarities(self) -> Tensor:
        """Return the cosine of each video and each text, `(videos, texts)`."""
        return similarities(torch.stack(self.video_embeds), torch.stack(self.text_embeds))


@torch.no_grad()
def build_gallery(
    model: Any, processor: Any, samples: Sequence[Any], batch_size: int, on_error: str, reads_together: bool
) -> Gallery:
    """Encode all videos and texts of a split.

    Args:
        model: a `VideoMambaForVideoTextRetrieval`.
        processor: a `VideoMambaProcessor`.
        samples: with a video and a caption, or the name of a class.
        batch_size: videos and texts that go through the model at once.
        on_error: what a sample that cannot be read does: `"stop"` raises, `"skip"` leaves it out and keeps the error.
        reads_together: keep what reading pairs together needs, on the CPU in the dtype of the model.

    Raises:
        ValueError: if a sample cannot be read and is not to be skipped.
    """
    gallery = Gallery()
    bad = BadSamples(on_error)
    read: list[tuple[Any, Tensor]] = []
    for index in tqdm(range(len(samples)), desc="encoding", disable=None):
        name = f"sample {index}"
        try:
            sample = samples[index]
            name = f"sample {sample.id}"
            caption_of(sample)
            clip = processor(videos=[video_of(sample)], num_frames=processor.video_processor.num_frames)
        except READ_ERRORS as error:
            bad.meet(name, error)
            gallery.errors[index] = error
            continue
        read.append((sample, clip["pixel_values_videos"]))
        if len(read) == batch_size:
            _encode(gallery, model, processor, read, reads_together)
            read = []
    if read:
        _encode(gallery, model, processor, read, reads_together)
    return gallery


def _encode(
    gallery: Gallery, model: Any, processor: Any, read: Sequence[tuple[Any, Tensor]], reads_together: bool
) -> None:
    captions = [caption_of(sample) for sample, _ in read]
    clips = torch.cat([clip for _, clip in read]).to(model.device, model.dtype)
    tokens = processor(text=captions).to(model.device)
    video = model.get_video_features(clips)
    text = model.get_text_features(**tokens)
    gallery.ids += [sample.id for sample, _ in read]
    gallery.captions += captions
    gallery.video_names += [video_name_of(sample) for sample, _ in read]
    gallery.video_embeds += list(video.video_embeds.float().cpu())
    gallery.text_embeds += list(text.text_embeds.float().cpu())
    if reads_together:
        gallery.patches += list(video.last_hidden_state.cpu())
        for states, mask in zip(text.last_hidden_state.cpu(), tokens["attention_mask"].cpu(), strict=True):
            gallery.text_states.append(states[mask.bool()])


@torch.no_grad()
def reranked(model: Any, gallery: Gallery, scores: Tensor, num_read: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Score the best pairs of each row and of each column anew, by reading them together.

    Args:
        model: a `VideoMambaForVideoTextRetrieval`.
        gallery: built with `reads_together`.
        scores: `(videos, texts)`.
        num_read: best texts of each video, and best videos of each text, that are read; all others get `UNREAD`.
        batch_size: pairs that go through the model at once.

    Returns:
        Scores of texts for each video, `(videos, texts)`, and of videos for each text, `(texts, videos)`.
    """

    def score(videos: list[int], texts: list[int]) -> Tensor:
        patches = torch.stack([gallery.patches[video] for video in videos]).to(model.device)
        states = [gallery.text_states[text] for text in texts]
        padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True).to(model.device)
        lengths = torch.tensor([len(rows) for rows in states], device=model.device)
        mask = torch.arange(padded.shape[1], device=model.device) < lengths[:, None]
        return model.match(padded, patches, mask)[:, 1].float().cpu()

    to_texts = _read_best(scores, num_read, batch_size, score)
    to_videos = _read_best(scores.T, num_read, batch_size, lambda texts, videos: score(videos, texts))
    return to_texts, to_videos


def _read_best(
    scores: Tensor, num_read: int, batch_size: int, score: Callable[[list[int], list[int]], Tensor]
) -> Tensor:
    """Replace the best scores of each row by those of `score(rows, columns)`, and all others by `UNREAD`."""
    best = scores.topk(min(num_read, scores.shape[1]), dim=1).indices
    rows = torch.arange(len(scores))[:, None].expand_as(best).flatten()
    columns = best.flatten()
    anew = torch.full_like(scores, UNREAD)
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, desc="reading pairs", disable=None):
        some = slice(start, start + batch_size)
        anew[rows[some], columns[some]] = score(rows[some].tolist(), columns[some].tolist())
    return anew


def rank_pairs(gallery: Gallery, to_texts: Tensor, to_videos: Tensor) -> list[dict[str, Any]]:
    """Return what is found for each pair: `text_rank` and `video_rank`, from 1 on, and the ids of the best items.

    Args:
        gallery: with the pairs.
        to_texts: scores of texts for each video, `(videos, texts)`.
        to_videos: scores of videos for each text, `(texts, videos)`.
    """
    is_match = gallery.matches()
    text_ranks = retrieval_ranks(to_texts, is_match)
    video_ranks = retrieval_ranks(to_videos, is_match.T)
    kept = min(NUM_KEPT, len(gallery.ids))
    best_texts = to_texts.topk(kept, dim=1).indices.tolist()
    best_videos = to_videos.topk(kept, dim=1).indices.tolist()
    found = []
    for row in range(len(gallery.ids)):
        found.append(
            {
                "text_rank": int(text_ranks[row]),
                "video_rank": int(video_ranks[row]),
                "texts": [gallery.ids[item] for item in best_texts[row]],
                "videos": [gallery.ids[item] for item in best_videos[row]],
            }
        )
    return found
