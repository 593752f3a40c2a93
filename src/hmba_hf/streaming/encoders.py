"""What the models of a video stream differ in: how they encode a frame, and how a prompt holds it.

Each encoder has the same attributes and methods:

- `parts_of_a_state` finds the names of the weights on which the state of a stream depends.
- `encode` turns frames, also of several streams, into what a stream keeps of each.
- `write_prompt` turns a question into inputs of the model without the pixels of the frame that stands in it.
- `fill_in` returns what `generate` reads in their place.
- `channels` and `rows_of` tell the shape of a frame's rows.
- `forget` drops all that was kept of weights and prompts.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, Cache, DynamicCache

from ..models.encoding_hmba_vlm import read_features, split_rows, without_pixels
from ..models.layers_adapter_state import AdapterState
from ..models.loading_transformers import CACHE_NAME, CACHE_NAMES, generation_options
from ..models.pipeline_hmba import VideoTextToTextPipeline

# With these, `generate` creates the cache itself, or the caller has passed one.
_OTHER_CACHES = (*CACHE_NAMES, "cache_implementation", "assistant_model", "prompt_lookup_num_tokens")
# Options of `generate` that encoders read.
_OPTIONS = ("num_beams", "num_return_sequences", "use_cache", *_OTHER_CACHES)


def read_options(pipeline: VideoTextToTextPipeline, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `generate` that encoders read, as it finds them: of the call, its config, or the model's.

    Args:
        pipeline: that calls `generate`.
        given: to the call.

    Raises:
        ValueError: if more than one answer is wanted.
    """
    given = generation_options(pipeline, given)
    config = given.get("generation_config")
    own = pipeline.model.generation_config
    options = {}
    for name in _OPTIONS:
        values = (given.get(name), getattr(config, name, None), getattr(own, name, None))
        options[name] = next((value for value in values if value is not None), None)
    if options["num_return_sequences"] not in (None, 1):
        raise ValueError(f"num_return_sequences must be 1 for a stream, got {options['num_return_sequences']}")
    return options


class EncodedFrame(NamedTuple):
    """One frame, as the frozen part of a model sees it.

    Attributes:
        rows: `(1, 1, p, d)`, what the temporal adapter reads.
        output: what else a prompt needs of the current frame, if anything.
    """

    rows: Tensor
    output: Any = None


class Prompts:
    """The prompts of a stream, of which the last one is kept, as a question is often repeated."""

    def __init__(self, pipeline: VideoTextToTextPipeline):
        self._pipeline = pipeline
        self._last: tuple[Any, dict[str, Any]] | None = None  # what it was about, and its inputs

    def write(self, question: str, size: tuple[int, int], times: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of a prompt about one frame of a height and width, without pixels."""
        subject = (question, size, times)
        if self._last is None or self._last[0] != subject:
            height, width = size
            blank = Image.new("RGB", (width, height))
            inputs = self._pipeline.preprocess({"text": question, "videos": [[blank]]}, **times)["inputs"]
            inputs.pop("pixel_values_videos", None)  # those of a vision tower
            self._last = (subject, without_pixels(inputs))
        return dict(self._last[1])


class HMBAEncoder:
    """Frames of H-MBA on a vision tower, all of one number of patches.

    A prompt is the same up to its video for all questions of a template. So the language model reads it once, and
    `generate` starts with a copy of that cache.
    """

    parts_of_a_state = re.compile(r"\b(vision_tower|temporal_adapter)\.")

    def __init__(self, pipeline: VideoTextToTextPipeline):
        self.pipeline = pipeline
        self.model = pipeline.model
        self.processor = pipeline.processor
        self.forget()

    def forget(self) -> None:
        """Drop all that was kept of weights and prompts."""
        self._prefix: tuple[Tensor, Cache] | None = None  # text before the video, and its cache
        self._prompts = Prompts(self.pipeline)

    def encode(self, frames: Sequence[Any]) -> list[EncodedFrame]:
        """Run the vision tower on frames, all at once."""
        inputs = self.processor.video_processor([[frame] for frame in frames], return_tensors="pt")
        features = self.model.get_frame_features(inputs["pixel_values_videos"].to(self.pipeline.device))
        return [EncodedFrame(rows.clone()) for rows in features.split(1)]  # a view would hold all of them

    def write_prompt(self, question: str, size: tuple[int, int], **times: Any) -> dict[str, Any]:
        """Return the inputs of a prompt about one frame, without pixels.

        Args:
            question: the text; it may place the frame by the video token.
            size: height and width of the frame.
            times: options of the pipeline about its time.
        """
        inputs = self._prompts.write(question, (1, 1), times)  # any picture has the same place in a prompt
        return {**inputs, "frame_size": torch.tensor([size])}

    def fill_in(
        self, input_ids: Tensor, frame: EncodedFrame, features: Tensor, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what `generate` reads in the place of a frame's pixels.

        Args:
            input_ids: of the prompt, `(1, l)`.
            frame: the current one.
            features: adapted, `(1, p, hidden_size)`.
            options: as of `read_options`.
        """
        filled = self.outputs_of(features, options)
        is_plain = options["num_beams"] in (None, 1) and options["use_cache"] is not False
        if is_plain and not any(options[name] for name in _OTHER_CACHES):
            filled[CACHE_NAME] = self._read_prefix(input_ids)
        return filled

    def outputs_of(self, features: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        """Return adapted features of one or more frames, `(b, p, hidden_size)`, as `generate` reads them."""
        of_beams = features.repeat_interleave(options["num_beams"] or 1, 0)
        return {"mm_encoder_outputs": {"video": {"pooler_output": of_beams}}}

    def _read_prefix(self, input_ids: Tensor) -> Cache:
        """Return a cache of the text before the video, which the language model reads once for all questions."""
        length = int((input_ids[0] == self.processor.video_token_id).int().argmax())
        prefix = input_ids[:, :length].to(self.pipeline.device)
        if self._prefix is None or not torch.equal(self._prefix[0], prefix):
            cache = DynamicCache(config=self.model.config.get_text_config())
            if length:
                with torch.no_grad():
                    self.model(input_ids=prefix, cache=cache, use_cache=True, logits_to_keep=1)
            self._prefix = (prefix, cache)
        return copy.deepcopy(self._prefix[1])

    @property
    def channels(self) -> int:
        """Number of channels of a row."""
        return self.model.config.vision_config.hidden_size

    def rows_of(self, state: AdapterState) -> int | None:
        """Return how many rows the frames have that a state goes on with, if it tells."""
        return self.model.config.num_patches


class HMBAVLMEncoder:
    """Frames of H-MBA on a vision-language model, which are pictures of its base.

    How many rows a frame has is the base's matter, and so is what else its output holds, which goes with the current
    frame. The language model reads each prompt whole, since the positions of tokens, and what they attend to, may
    depend on the picture behind them.
    """

    # All of the base but its language model.
    parts_of_a_state = re.compile(r"\b(temporal_adapter|base(?!.*\b(language_model|text_model|lm_head)\.))\.")

    def __init__(self, pipeline: VideoTextToTextPipeline):
        self.pipeline = pipeline
        self.model = pipeline.model
        self.processor = pipeline.processor
        self.forget()

    def forget(self) -> None:
        """Drop all that was kept of weights and prompts."""
        self._prompts = Prompts(self.pipeline)

    def encode(self, frames: Sequence[Any]) -> list[EncodedFrame]:
        """Run the base's towers on frames, one after the other, since each base packs its pictures in its own way."""
        return [self._encode_one(frame) for frame in frames]

    def _encode_one(self, frame: Any) -> EncodedFrame:
        inputs = BatchFeature(self.processor.frame_inputs([frame])).to(self.pipeline.device, self.pipeline.dtype)
        output = self.model.get_image_features(**inputs, return_dict=True)
        pieces = split_rows(read_features(output, self.channels), None, None)
        rows = torch.cat(pieces)
        return EncodedFrame(rows[None, None], output)

    def write_prompt(self, question: str, size: tuple[int, int], **times: Any) -> dict[str, Any]:
        """Return the inputs of a prompt about one frame, without pixels; see `HMBAEncoder.write_prompt`.

        The size of a frame decides on its tokens, so a blank picture of this size goes through the base's processor.
        """
        return self._prompts.write(question, size, times)

    def fill_in(
        self, input_ids: Tensor, frame: EncodedFrame, features: Tensor, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what `generate` reads in the place of a frame's pixels; see `HMBAEncoder.fill_in`."""
        return {"mm_encoder_outputs": {"image": self.model.with_features(frame.output, features)}}

    @property
    def channels(self) -> int:
        """Number of channels of a row."""
        return self.model.config.hidden_size

    def rows_of(self, state: AdapterState) -> int | None:
        """Return how many rows the frames have that a state goes on with, if it tells."""
        for name, tensor in state.tensors.items():
            has_rows = name == "sum" or name.startswith("divided_space_time/")
            if has_rows and tensor.ndim > 1:
                return tensor.shape[1]
        return None


ENCODERS: dict[str, Any] = {"hmba": HMBAEncoder, "hmba_vlm": HMBAVLMEncoder}  # by model type
