"""Videos and the question of each head as inputs of a MambaVL."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from .loading_checkpoints import (  # first: it refuses an old transformers
    file_options,
    load_pixel_options,
    load_tokenizer,
    load_vision_config,
)
from .loading_options import OPTIONS_OF_WHOLE, split_options

# isort: split
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import logging

from .loading_transformers import with_defaults
from .parsing_words import hide_words, spoken
from .reading_texts import VideoTextProcessor
from .video_processing_mambavl import MambaVLVideoProcessor, MambaVLVideoProcessorKwargs, count_videos

logger = logging.get_logger(__name__)
# Questions that show nothing of the answers.
GENERIC_QUESTIONS = {
    "verb": "What action is performed using hands in the video?",
    "noun": "What is the object in the video?",
}
MAX_TEXT_LENGTH = 40  # tokens, of the released models
_PADDINGS = (True, "longest", "max_length")
_OF_TEXT = {"padding", "truncation", "return_tensors"}
_OWN_OPTIONS = ("heads", "questions", "max_text_length", "pads_to_max_length")
Texts = dict[str, str | None]  # by head; `None` where there is no text


class QuestionKwargs(TypedDict, total=False):
    """Options of a call about its texts.

    `padding` is `True`, up to the longest text, or `"max_length"`, up to `max_text_length`; when absent it is as
    `pads_to_max_length` of the processor says. `truncation` cuts longer
    texts and logs each; otherwise they are refused. `return_tensors` is `"pt"`, `"np"`, or `None` for lists, and is
    for videos, too.
    """

    padding: bool | str
    truncation: bool
    return_tensors: str | None


@with_defaults
class MambaVLProcessorKwargs(ProcessingKwargs, total=False):
    """Options of a call."""

    text_kwargs: QuestionKwargs  # type: ignore[misc]  # with options of questions
    videos_kwargs: MambaVLVideoProcessorKwargs  # type: ignore[misc]  # with those of the video processor


class MambaVLProcessor(VideoTextProcessor):
    """Turn videos and questions into inputs of `MambaVLForVideoClassification`.

    Args:
        video_processor: a `MambaVLVideoProcessor`, or that of the video model.
        tokenizer: of the text model.
        heads: their names, or the `heads` of the model's configuration, in its order.
        questions: by head, for calls without questions. When absent, those of `GENERIC_QUESTIONS` for the heads there.
        max_text_length: tokens of a question.
        pads_to_max_length: pad all questions to that length in calls that name no `padding`, for a model that reads
            padding as text: what it reads must not depend on the other questions of a batch.

    Raises:
        ValueError: if a value is out of range, a head is unknown, or the tokenizer has nothing to pad with.

    Source: arXiv:2409.11513; Dongzhikang/MambaVL.
    Differs: padding is masked, and only up to the longest question; nothing is cut unless it is asked for.
    """

    _auto_class = "AutoProcessor"
    own_video_processor = MambaVLVideoProcessor
    auto_map_entry = "processing_mambavl.MambaVLProcessor"
    valid_processor_kwargs: Any = MambaVLProcessorKwargs

    def __init__(
        self,
        video_processor: Any = None,
        tokenizer: Any = None,
        heads: Iterable[str] = ("verb", "noun"),
        questions: Mapping[str, str] | None = None,
        max_text_length: int = MAX_TEXT_LENGTH,
        pads_to_max_length: bool = False,
    ):
        super().__init__(video_processor, tokenizer)
        self.heads = _checked_heads(heads)
        if max_text_length < 1:
            raise ValueError(f"max_text_length must be at least 1, got {max_text_length}")
        self.max_text_length = max_text_length
        self.pads_to_max_length = pads_to_max_length
        if questions is None:
            questions = {head: text for head, text in GENERIC_QUESTIONS.items() if head in self.heads}
        self._check_heads_of(questions, "questions")
        for head, text in questions.items():
            _check_text(text, f"the question for {head!r}")
        self.questions = dict(questions)
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer must have a pad_token, got one without")

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str = "FacebookAI/roberta-base", **kwargs: Any
    ) -> "MambaVLProcessor":
        """Build the processor of a model joined by `MambaVLForVideoClassification.from_vision_text_pretrained`.

        Args:
            vision, text: as given to the model.
            kwargs: options of this class and of `MambaVLVideoProcessor`, which replace the size, length and colours
                that the video model's clips have. Options of `from_pretrained`, such as `revision`, are for both
                parts, or with `vision_` or `text_` before their name for one.

        Raises:
            ValueError: for an unknown option, or if the video model states no size or colours.
        """
        vision_options, text_options, kwargs = split_options(kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in OPTIONS_OF_WHOLE}
        own = {name: kwargs.pop(name) for name in _OWN_OPTIONS if name in kwargs}
        tokenizer = load_tokenizer(text, **file_options(text_options))
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
        files = file_options(vision_options)
        _, config = load_vision_config(vision, **files)
        options = {**_geometry_of(config), **load_pixel_options(vision, **files), **kwargs}
        for name in ("image_mean", "image_std"):
            if name not in options and options.get("do_normalize", True):
                raise ValueError(
                    f"{name} must be in the processor of the video model or given, got {vision!r} without"
                )
        return cls(MambaVLVideoProcessor(**options), tokenizer, **own)

    def __call__(
        self, videos: Any = None, questions: Any = None, hidden_words: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Process videos, questions or both; a row is a video, or a view of one.

        Args:
            videos: as the video processor takes them.
            questions: one by head for all videos, or a list of such, one for each video; those of the processor when
                absent. `False` in place of a question, of all of a video, or of all asks none.
            hidden_words: what is hidden in each head's question, in every form: a text or a list of texts by head, as
                `words_of_others` gives them, or a list of such.
            kwargs: of the video processor, and those of `QuestionKwargs`, also as `videos_kwargs` and `text_kwargs`.

        Returns:
            `pixel_values_videos` of videos; `input_ids` and `attention_mask`, `(b, heads, l)`, of questions. The mask
            is zero where none is asked.

        Raises:
            ValueError: if a head has no question or is unknown, if a question is empty, too long, or all hidden, if
                there are not as many questions as videos, or as the video processor.
        """
        if "text" in kwargs:
            raise ValueError("text must be given by head, as questions, got text")
        if videos is None and questions is None:
            raise ValueError("videos or questions must be given, got neither")
        if questions is False and hidden_words is not None:
            raise ValueError("hidden_words must be absent where no questions are asked, got some")
        of_text, of_videos = _sorted_options(kwargs)
        if videos is None and of_videos:
            raise ValueError(f"options must be of questions, got {sorted(of_videos)} without videos")
        count = _count_rows(videos, questions=questions, hidden_words=hidden_words)
        asked = [self._asked(texts) for texts in _for_each(questions, count)]
        self._hide(asked, _for_each(hidden_words, count))
        tensors = of_text.pop("return_tensors", "pt")
        encoded = self._encoded(asked, "questions", **of_text)
        features: dict[str, Any] = {}
        views = 1
        if videos is not None:
            features.update(self.video_processor(videos, return_tensors=tensors, **of_videos))
            views = len(features["pixel_values_videos"]) // count
        for name, rows in encoded.items():
            encoded[name] = [row for row in rows for _ in range(views)]
        features.update(BatchFeature(encoded, tensor_type=tensors))
        return BatchFeature(features, tensor_type=None)

    def answers(self, names: Any, **kwargs: Any) -> BatchFeature:
        """Return right answers as texts, for the question-answering objective.

        Args:
            names: of the classes, by head, or a list of such; `None` or absent for a head where it is unknown.
            kwargs: those of `QuestionKwargs`.

        Returns:
            `answer_input_ids` and `answer_attention_mask`, `(b, heads, l)`; the mask is zero for unknown ones.

        Raises:
            ValueError: if a head or an option is unknown, or a name is empty or too long.
        """
        of_text, others = _sorted_options(kwargs)
        if others:
            raise ValueError(f"options must be among {sorted(_OF_TEXT)}, got {sorted(others)}")
        tensors = of_text.pop("return_tensors", "pt")
        rows = []
        for of_row in _for_each(names, _count_rows(None, names=names)):
            self._check_heads_of(of_row, "names")
            texts: Texts = {}
            for head in self.heads:
                name = of_row.get(head)
                if name is not None:
                    _check_text(name, f"the name for {head!r}")
                texts[head] = None if name is None else spoken(name)
            rows.append(texts)
        encoded = self._encoded(rows, "names", **of_text)
        features = {f"answer_{name}": values for name, values in encoded.items()}
        return BatchFeature(features, tensor_type=tensors)

    def mask_words(self, text: str, words: str | Iterable[str]) -> str:
        """Return a text with the tokenizer's mask in place of words, in any form and case, as `hide_words` finds them.

        Raises:
            ValueError: if the tokenizer has no mask, or if a word is no text or has nothing in it.
        """
        words = [words] if isinstance(words, str) else list(words)
        for word in words:
            _check_text(word, "a word to hide")
        mask = self.tokenizer.mask_token
        if mask is None:
            raise ValueError(
                f"the tokenizer must have a mask_token to hide words, got {type(self.tokenizer).__name__} without one"
            )
        return hide_words(text, words, mask)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs."""
        return ["pixel_values_videos", "input_ids", "attention_mask"]

    def _check_heads_of(self, values: Any, name: str) -> None:
        """Raise `ValueError` if there are no values by head, or one of a head that there is not."""
        if not isinstance(values, Mapping):
            raise ValueError(f"{name} must be by head, a dict, got {type(values).__name__}")
        if unknown := [head for head in values if head not in self.heads]:
            raise ValueError(f"{name} must be for heads among {self.heads}, got {unknown}")

    def _asked(self, questions: Any) -> Texts:
        """Return the question of each head for one video."""
        if questions is False:
            return dict.fromkeys(self.heads)
        if questions is None:
            questions = self.questions
        self._check_heads_of(questions, "questions")
        if missing := [head for head in self.heads if questions.get(head) is None]:
            raise ValueError(f"questions must be for each of the heads {self.heads}, got none for {missing}")
        asked: Texts = {}
        for head in self.heads:
            text = questions[head]
            if text is not False:
                self._check_question(text, head)
            asked[head] = None if text is False else text
        return asked

    def _check_question(self, text: Any, head: str) -> None:
        """Raise `ValueError` if a question is none, or if masks are all that is in it."""
        _check_text(text, f"the question for {head!r}")
        mask = self.tokenizer.mask_token
        if mask is not None and not re.search(r"\w", text.replace(mask, " ")):
            raise ValueError(f"the question for {head!r} must have words that are not hidden, got {text!r}")

    def _hide(self, asked: list[Texts], hidden_words: list[Any]) -> None:
        """Hide words in the questions of each video."""
        for texts, hidden in zip(asked, hidden_words, strict=True):
            if hidden is None:
                continue
            self._check_heads_of(hidden, "hidden_words")
            for head, words in hidden.items():
                text = texts[head]
                if words is None or text is None:
                    continue
                texts[head] = self.mask_words(text, words)
                self._check_question(texts[head], head)

    def _encoded(
        self, rows: list[Texts], name: str, padding: bool | str | None = None, truncation: bool = False
    ) -> dict[str, list]:
        """Return `input_ids` and `attention_mask` of the texts of all rows, `(b, heads, l)`, padded at their ends."""
        if padding is None:
            padding = "max_length" if self.pads_to_max_length else True
        if padding not in _PADDINGS:
            raise ValueError(f"padding must be one of {list(_PADDINGS)}, since a batch is one array, got {padding!r}")
        encoded = [[self._tokens(texts[head], name, truncation) for head in self.heads] for texts in rows]
        length = max(len(tokens) for row in encoded for tokens in row)
        if padding == "max_length":
            length = self.max_text_length
        length = max(length, 1)
        ids = []
        masks = []
        for row in encoded:
            ids.append([tokens + [self.tokenizer.pad_token_id] * (length - len(tokens)) for tokens in row])
            masks.append([[1] * len(tokens) + [0] * (length - len(tokens)) for tokens in row])
        return {"input_ids": ids, "attention_mask": masks}

    def _tokens(self, text: str | None, name: str, truncation: bool) -> list[int]:
        """Return the tokens of a text, none if there is none, with a warning if it is cut."""
        if text is None:
            return []
        limit = self.max_text_length
        tokens = self.tokenizer(text, verbose=False)["input_ids"]
        if len(tokens) <= limit:
            return tokens
        if not truncation:
            raise ValueError(
                f"{name} must have at most max_text_length={limit} tokens, or truncation=True, got {len(tokens)} in "
                f"{text!r}"
            )
        logger.warning(f"{name} of {len(tokens)} tokens are cut to max_text_length={limit}: {text!r}")
        return self.tokenizer(text, truncation=True, max_length=limit)["input_ids"]


def words_of_others(names: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Return what each head's question must not show: the names of the other heads' classes.

    Args:
        names: of the right classes, by head; `None` where one is unknown.
    """
    words = {}
    for head in names:
        words[head] = [name for other, name in names.items() if other != head and name is not None]
    return words


def _sorted_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort the options of a call into those of texts and those of videos.

    Raises:
        ValueError: if one is given in two places, or is none of texts.
    """
    others = dict(given)
    of_text = dict(others.pop("text_kwargs", {}))
    of_videos = dict(others.pop("videos_kwargs", {}))
    if unknown := sorted(of_text.keys() - _OF_TEXT):
        raise ValueError(f"text_kwargs must be among {sorted(_OF_TEXT)}, got {unknown}")
    for name, value in others.items():
        options = of_text if name in _OF_TEXT else of_videos
        if name in options:
            raise ValueError(f"{name} must be given once, got it by itself and among options of a part")
        options[name] = value
    return of_text, of_videos


def _checked_heads(heads: Iterable[str]) -> list[str]:
    """Return the names of heads as a list; raise `ValueError` if one is none, or is there twice."""
    if isinstance(heads, str):
        raise ValueError(f"heads must be a list of names, got {heads!r}")
    names = list(heads)
    if not names or len({*names}) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"heads must be names, one or more, each once, got {names}")
    return names


def _check_text(text: Any, name: str) -> None:
    """Raise `ValueError` for what is no text, or has no letters or digits."""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be text, got {type(text).__name__}")
    if not re.search(r"\w", text):
        raise ValueError(f"{name} must have words, got {text!r}")


def _count_rows(videos: Any, **lists: Any) -> int:
    """Return the number of videos, or of the rows of lists; raise `ValueError` if they differ or there are none."""
    counts = {}
    if videos is not None:
        counts["videos"] = count_videos(videos)
    for name, values in lists.items():
        if isinstance(values, (list, tuple)):
            counts[name] = len(values)
    if len({*counts.values()}) > 1 or 0 in counts.values():
        raise ValueError(f"{' and '.join(counts)} must be as many, one or more, got {[*counts.values()]}")
    return next(iter(counts.values()), 1)


def _for_each(values: Any, count: int) -> list[Any]:
    """Return values that are listed by row, or one for all rows as often."""
    return list(values) if isinstance(values, (list, tuple)) else [values] * count


def _geometry_of(config: Any) -> dict[str, Any]:
    """Return the size and the length of the clips that a video model takes, as options of a video processor.

    A model of pictures takes clips of any length, and 16 frames are the default.
    """
    side = getattr(config, "image_size", None) or getattr(config, "crop_size", None)
    if side is None:
        raise ValueError(f"the video model must have an image_size, got {type(config).__name__} without one")
    height, width = [side, side] if isinstance(side, int) else side
    options = {"size": {"shortest_edge": max(height, width)}, "crop_size": {"height": height, "width": width}}
    num_frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    if num_frames is not None:
        options["num_frames"] = num_frames
    return options


__all__ = ["GENERIC_QUESTIONS", "MambaVLProcessor", "MambaVLProcessorKwargs", "QuestionKwargs", "words_of_others"]
