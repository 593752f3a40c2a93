"""Prompts with videos for vLLM's engine: each video becomes the frames of a clip and the tokens of one frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_utils import BatchFeature

from ...installation import missing_package
from ...models.prompting_hmba import write_time
from ...models.sampling_video import ClipMetadata
from .options import check_length, options_of_request
from .reading import Clip, ClipItems, ClipParser, clips_of

try:
    from vllm.exceptions import VLLMValidationError
    from vllm.multimodal.inputs import MultiModalFieldConfig
    from vllm.multimodal.processing import (
        BaseDummyInputsBuilder,
        BaseMultiModalProcessor,
        BaseProcessingInfo,
        PromptReplacement,
        PromptUpdateDetails,
    )
    from vllm.renderers import TokenizeParams
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing


# An input that is no model's, but what stands in the prompt: the time of a clip, as UTF-8.
TIME = "time"


@dataclass(frozen=True)
class TextChecks(TokenizeParams):
    """How prompts become tokens, with a check that one without videos has no place for any.

    Attributes:
        video_token_id: of the token that is such a place.
    """

    video_token_id: int = -1

    def with_kwargs(self, **kwargs: Any) -> "TextChecks":
        """Return these settings with others in place of some."""
        return TextChecks(**vars(super().with_kwargs(**kwargs)), video_token_id=self.video_token_id)

    def apply_post_tokenization(self, tokenizer: Any, prompt: Any) -> Any:
        """Check a prompt of tokens.

        Raises:
            ValueError: if it has a video token and no video.
        """
        if not prompt.get("multi_modal_data"):
            check_count(list(prompt.get("prompt_token_ids", ())).count(self.video_token_id), 0)
        return super().apply_post_tokenization(tokenizer, prompt)


def clip_token_of(config: Any) -> int:
    """Return the token that stands for a clip in prompts: that of a video, or of a picture of a base."""
    return config.image_token_id if config.model_type == "hmba_vlm" else config.video_token_id


def check_count(tokens: int, videos: int) -> None:
    """Check that each video has its place in the prompt.

    Raises:
        ValueError: if their numbers differ.
    """
    if tokens != videos:
        raise ValueError(f"a prompt must hold one video token for each video, got {tokens} tokens and {videos} videos")


@dataclass
class ClipInPrompt(PromptUpdateDetails):
    """What stands for a clip in a prompt.

    Attributes:
        time: text behind it.
    """

    time: str = ""


class ClipInfo(BaseProcessingInfo):
    """What vLLM asks about H-MBA's videos before it sees one."""

    def get_data_parser(self) -> ClipParser:
        """Return what takes the videos of a request."""
        return ClipParser()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Allow any number of videos, and nothing else."""
        return {"video": None}

    def validate_num_items(self, modality: str, num_items: int) -> None:
        """Check that a prompt holds videos alone, and no more than the user has allowed.

        Raises:
            VLLMValidationError: if it does not.
        """
        if modality != "video":
            raise VLLMValidationError(
                f"a prompt for vLLM must hold videos alone, got {modality}: send a picture as a video of one frame, "
                "`data:video/jpeg;base64,...` or an array (1, height, width, 3)",
                parameter=modality,
            )
        super().validate_num_items(modality, num_items)

    def get_default_tok_params(self) -> TokenizeParams:
        """Return how prompts become tokens."""
        return TextChecks(**vars(super().get_default_tok_params()), video_token_id=self.clip_token)

    @property
    def clip_token(self) -> int:
        """The token that stands for a clip in prompts."""
        return clip_token_of(self.ctx.get_hf_config())

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int] | None:
        """Count the tokens of a video, which are those of one frame."""
        return {"video": len(self.tokens_of_video())}

    def tokens_of_video(self) -> list[int]:
        """Return the tokens that stand for a video."""
        processor = self.get_hf_processor()
        tokens = [self.clip_token] * self.ctx.get_hf_config().num_patches
        if processor.video_start_token:
            tokens = [processor.tokenizer.convert_tokens_to_ids(processor.video_start_token), *tokens]
        if processor.video_end_token:
            tokens = [*tokens, processor.tokenizer.convert_tokens_to_ids(processor.video_end_token)]
        return tokens


class BlankClips(BaseDummyInputsBuilder):
    """Blank videos, by which vLLM measures how much memory a request needs."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Write a prompt with so many videos."""
        return self.info.get_hf_processor().video_token * mm_counts.get("video", 0)

    def frame_size(self) -> tuple[int, int]:
        """Return height and width of a frame."""
        return self.info.ctx.get_hf_config().frame_size

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        """Draw so many videos."""
        height, width = self.frame_size()
        video_processor = self.info.get_hf_processor().video_processor
        of_engine = self.info.ctx.get_merged_mm_kwargs({})
        num_frames = int(of_engine.get("num_frames", video_processor.num_frames))
        frames = np.full((num_frames, height, width, 3), 255, np.uint8)
        blank = (frames, {"fps": of_engine.get("fps", video_processor.fps)})
        return {"video": [blank] * mm_counts.get("video", 0)}


class ClipProcessor(BaseMultiModalProcessor):
    """Reads the videos of a request by H-MBA's video processor, and gives each its tokens.

    Options of a request, `mm_processor_kwargs`, are those of the video processor: `timestamp`, one for all videos or
    one for each, `num_frames`, `fps`, `source_fps`, `only_whole`; and `time_format` in place of the processor's.
    """

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process one prompt.

        Raises:
            ValueError: if its video tokens are not as many as its videos, or if a video or an option is none.
        """
        inputs = self._begin_as_text(self._with_times(inputs))
        check_count(inputs.prompt.count(self.info.clip_token), len(clips_of(inputs.mm_data_items)))
        return super().apply(inputs, timing_ctx)

    def _with_times(self, inputs: Any) -> Any:
        """Give each clip its own moment, so that vLLM tells two moments of one video apart."""
        clips = clips_of(inputs.mm_data_items)
        options, moments = options_of_request(inputs.hf_processor_mm_kwargs, len(clips))
        inputs = replace(inputs, hf_processor_mm_kwargs=options)
        if moments is None:
            return inputs
        items = type(inputs.mm_data_items)(inputs.mm_data_items)
        items["video"] = ClipItems(
            [clip and clip._replace(timestamp=moment) for clip, moment in zip(clips, moments, strict=True)]
        )
        names = {**(inputs.mm_uuid_items or {})}
        if "video" in names:
            given = zip(names["video"], moments, strict=True)
            names["video"] = [name if name is None else f"{name}@{moment}" for name, moment in given]
        return replace(inputs, mm_data_items=items, mm_uuid_items=names)

    def _begin_as_text(self, inputs: Any) -> Any:
        """Begin a prompt as the tokenizer begins every text, which vLLM's server leaves to the chat template."""
        tokenizer = self.info.get_tokenizer()
        begin = tokenizer.encode("")
        if begin != [tokenizer.bos_token_id] or inputs.prompt[:1] == begin:
            return inputs
        return replace(inputs, prompt=[*begin, *inputs.prompt])

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> BatchFeature:
        clips: list[Clip] = clips_of(mm_items)
        if not clips:
            return BatchFeature()
        options = dict(self.info.ctx.get_merged_mm_kwargs(hf_kwargs))
        time_format = options.pop("time_format", self.info.get_hf_processor().time_format)
        inputs, described = self.encode_clips(clips, options)
        if time_format is not None:
            texts = [write_time(metadata, time_format) for metadata in described]
            inputs[TIME] = [torch.tensor(list(text.encode()), dtype=torch.uint8) for text in texts]
        return BatchFeature(inputs)

    def encode_clips(
        self, clips: list[Clip], options: Mapping[str, Any]
    ) -> tuple[dict[str, list[Tensor]], list[ClipMetadata]]:
        """Read clips, and return the inputs of the model, each with an item for each clip, and the clips' metadata.

        Args:
            clips: of one prompt.
            options: of the video processor.
        """
        frames, described = self.info.get_hf_processor().video_processor.read_clips(
            [clip.source for clip in clips],
            video_metadata=[clip.metadata for clip in clips],
            timestamp=[clip.timestamp for clip in clips],
            **options,
        )
        dtype = self.info.ctx.model_config.dtype
        return {"pixel_values_videos": [self._as_pixels(clip).to(dtype) for clip in frames]}, described

    def _as_pixels(self, frames: np.ndarray) -> Tensor:
        """Return frames, `(t, 3, height, width)`, as a tensor, unless an engine would end by them."""
        check_length(len(frames))
        size = tuple(frames.shape[1:])
        wanted = (3, *self.info.ctx.get_hf_config().frame_size)
        if size != wanted:
            raise ValueError(f"frames must be {wanted} for the vision tower, got {size}")
        if not np.isfinite(frames).all():
            raise ValueError("frames must be finite, got NaN or infinity")
        return torch.from_numpy(frames)

    def _get_mm_fields_config(self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        fields = {}
        for name, values in hf_inputs.items():  # vLLM needs sizes on the CPU, and of a clip that it holds these alone
            fields[name] = MultiModalFieldConfig.batched("video", keep_on_cpu=not values[0].is_floating_point())
        return fields

    def tokens_in_prompt(self, inputs: Any) -> list[int]:
        """Return the tokens that stand for a clip of these inputs in a prompt."""
        return self.info.tokens_of_video()

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        token = self.info.clip_token

        def in_prompt(place: int) -> ClipInPrompt:
            inputs = out_mm_kwargs["video"][place]
            time = bytes(inputs[TIME].data.tolist()).decode() if TIME in inputs else ""
            details = PromptUpdateDetails.select_token_id(self.tokens_in_prompt(inputs), token)
            return ClipInPrompt(details.full, details.is_embed, time)

        return [PromptReplacement(modality="video", target=[token], replacement=in_prompt)]

    def _apply_prompt_updates(self, token_ids: list[int], mm_prompt_updates: Any) -> Any:
        times = [getattr(update.content, "time", "") for (update,) in mm_prompt_updates.get("video", ())]
        if any(times):
            token_ids = self._write_times(token_ids, times)
        return super()._apply_prompt_updates(token_ids, mm_prompt_updates)

    def _write_times(self, prompt: list[int], times: list[str]) -> list[int]:
        """Write the time of each clip behind its token, in the tokens of the whole text up to the next clip.

        Raises:
            ValueError: if the tokens of a prompt are not those that the tokenizer gives for their text.
        """
        tokenizer = self.info.get_tokenizer()
        token = self.info.clip_token
        name = tokenizer.convert_ids_to_tokens(token)
        closing = self.text_behind_clip()
        places = [place for place, one in enumerate(prompt) if one == token]
        timed = prompt[: places[0]]
        for place, following, time in zip(places, [*places[1:], len(prompt)], times, strict=True):
            part = prompt[place:following]
            behind = tokenizer.decode(part, clean_up_tokenization_spaces=False).removeprefix(name)
            if tokenizer.encode(name + behind, add_special_tokens=False) != part:
                raise ValueError(f"a prompt with times must be the tokens of a text, got others behind token {place}")
            closed = len(closing) if behind.startswith(closing) else 0
            text = name + behind[:closed] + time + behind[closed:]
            timed += tokenizer.encode(text, add_special_tokens=False)
        return timed

    def text_behind_clip(self) -> str:
        """Return what stands between a clip and its time."""
        return ""


__all__ = [
    "BlankClips",
    "ClipInfo",
    "ClipProcessor",
    "TextChecks",
    "ClipInPrompt",
    "TIME",
    "check_count",
    "clip_token_of",
]
