"""Videos and their texts as inputs of training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...data.actions.training_clips import draw_frames, video_of
from ...digests import digest_text
from .pairs import caption_of

_SEEDS = 2**62
_IGNORED = -100  # a label that no loss reads
# Of the tokens that are to be guessed: shown as the mask, shown as any other; the rest is shown as it is.
_MASKED = 0.8
_REPLACED = 0.1


@dataclass
class PairEncoder:
    """Turns a sample into a clip, its text, and the text with hidden tokens.

    Args:
        processor: a `VideoMambaProcessor`.
        hidden_words: share of a text's tokens that are to be guessed; 0 for none.
        flip: probability of a mirrored clip in training.
    """

    processor: Any
    hidden_words: float = 0.5
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name in ("hidden_words", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")

    def encode(self, sample: Any, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return `pixel_values_videos`, `(t, 3, h, w)`, `input_ids`, `(l,)`, `pair_ids` and `mask_seed`.

        With `hidden_words`, there are `masked_input_ids` and `labels`, `(l,)`, too. Equal texts have equal `pair_ids`.

        Args:
            sample: with a video and a caption, or the name of a class.
            generator: of the epoch, for training. Without one the clip is that of a prediction, and what is hidden
                depends on the id of the sample alone.

        Raises:
            OSError, ValueError: if its video cannot be read, or if it has no text.
        """
        caption = caption_of(sample)
        tokens = self.processor(text=[caption])["input_ids"][0]
        clip = self._clip(sample, generator)
        if generator is None:
            generator = torch.Generator().manual_seed(_number_of(sample.id))
        encoded = {
            "pixel_values_videos": clip,
            "input_ids": tokens,
            "pair_ids": torch.tensor(_number_of(caption)),
            "mask_seed": torch.randint(_SEEDS, (), generator=generator),
        }
        if self.hidden_words:
            masked, labels = hide_tokens(tokens, self.processor.tokenizer, self.hidden_words, generator)
            encoded |= {"masked_input_ids": masked, "labels": labels}
        return encoded

    def _clip(self, sample: Any, generator: torch.Generator | None) -> Tensor:
        video_processor = self.processor.video_processor
        video = video_of(sample)
        if generator is not None:
            video = draw_frames(video, video_processor, generator)
        options = {"num_frames": video_processor.num_frames, "return_tensors": "pt"}
        clip = video_processor(videos=[video], **options)["pixel_values_videos"][0]
        if generator is not None and torch.rand((), generator=generator) < self.flip:
            clip = clip.flip(-1)
        return clip


def hide_tokens(tokens: Tensor, tokenizer: Any, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hide some tokens of a text, and return what is left of it and the labels, both `(l,)`.

    Of the tokens to guess, 80 % are shown as the mask, 10 % as any token, and the others as they are. Tokens around a
    text and between texts are never hidden.

    Args:
        tokens: `(l,)`.
        tokenizer: of the text.
        share: of the tokens that are to be guessed.
        generator: draws them.

    Source: Devlin et al. 2018, arXiv:1810.04805, section 3.1.
    """
    marks = [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id]
    is_mark = torch.isin(tokens, torch.tensor([mark for mark in marks if mark is not None]))
    is_hidden = (torch.rand(tokens.shape, generator=generator) < share) & ~is_mark
    labels = torch.where(is_hidden, tokens, _IGNORED)
    way = torch.rand(tokens.shape, generator=generator)
    others = torch.randint(len(tokenizer), tokens.shape, generator=generator)
    shown = torch.where(is_hidden & (way < _MASKED), tokenizer.mask_token_id, tokens)
    is_replaced = is_hidden & (way >= _MASKED) & (way < _MASKED + _REPLACED)
    return torch.where(is_replaced, others, shown), labels


@dataclass
class PairCollator:
    """Puts pairs into a batch, texts padded on the right.

    Args:
        pad_token_id: of the tokenizer.
    """

    pad_token_id: int

    def __call__(self, encoded: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return a batch, with an `attention_mask`, `(b, l)`."""
        fills = {"input_ids": self.pad_token_id, "masked_input_ids": self.pad_token_id, "labels": _IGNORED}
        batch = {}
        for name in encoded[0]:
            rows = [one[name] for one in encoded]
            if name in fills:
                batch[name] = pad_sequence(rows, batch_first=True, padding_value=fills[name])
            else:
                batch[name] = torch.stack(rows)
        lengths = torch.tensor([len(one["input_ids"]) for one in encoded])
        batch["attention_mask"] = torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]
        return batch


def _number_of(text: str) -> int:
    return int(digest_text(text)[:15], 16)
