"""Prompts with videos for vLLM's engine, on a vision-language model: each clip stands as one picture of the base."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...installation import missing_package
from ...models.encoding_hmba_vlm import PAST
from ...models.prompting_hmba import text_behind_picture
from ...models.sampling_video import ClipMetadata
from .options import check_length
from .processing import BlankClips, ClipInfo, ClipProcessor
from .reading import Clip

try:
    from vllm.transformers_utils.processor import cached_processor_from_config
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing

# The input that holds what stands for a clip in a prompt; the model does not read it.
PROMPT = "prompt"
# Of the frames with which memory is measured, as most cameras have them.
FULL_HD = (1080, 1920)


class PictureInfo(ClipInfo):
    """What vLLM asks about clips on a vision-language model before it sees one."""

    def get_hf_processor(self, **kwargs: Any) -> Any:
        """Return the processor with its own tokenizer; vLLM would hand it another one, which is its base's to have."""
        return cached_processor_from_config(self.ctx.model_config, **kwargs)

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> None:
        """Leave it to blank clips: how many tokens a clip has depends on the size of its frames."""
        return None


class BlankPictures(BlankClips):
    """Blank videos, by which vLLM measures how much memory a request needs."""

    def frame_size(self) -> tuple[int, int]:
        """Return height and width of a frame."""
        return FULL_HD


class PictureProcessor(ClipProcessor):
    """Reads the videos of a request by the processor of an H-MBA on a vision-language model.

    Each clip goes through it by itself, in a prompt of nothing else, so that what vLLM keeps of it fits any prompt.
    """

    def encode_clips(
        self, clips: list[Clip], options: Mapping[str, Any]
    ) -> tuple[dict[str, list[Tensor]], list[ClipMetadata]]:
        """Read clips, and return the inputs of the model, each with an item for each clip, and the clips' metadata.

        Raises:
            ValueError: as the processor.
        """
        encoded = []
        described = []
        for clip in clips:
            inputs, metadata = self._encode(clip, options)
            encoded.append(inputs)
            described.append(metadata)
        return {name: [inputs[name] for inputs in encoded] for name in encoded[0]}, described

    def _encode(self, clip: Clip, options: Mapping[str, Any]) -> tuple[dict[str, Tensor], ClipMetadata]:
        """Return the inputs of one clip and its metadata; inputs of earlier frames may have no rows."""
        processor = self.info.get_hf_processor()
        encoded = processor(
            text=processor.video_token,
            videos=[clip.source],
            video_metadata=[clip.metadata],
            timestamp=[clip.timestamp],
            time_format=None,
            return_metadata=True,
            return_tensors="pt",
            **options,
        )
        check_length(int(encoded["past_lengths"]) + 1)
        prompt = encoded["input_ids"][0]
        begin = self.info.get_tokenizer().encode("")
        if prompt[: len(begin)].tolist() == begin:
            prompt = prompt[len(begin) :]
        inputs = {PROMPT: prompt, "past_lengths": encoded["past_lengths"], "picture_tokens": encoded["picture_tokens"]}
        for name in processor.base_processor.image_processor.model_input_names:
            if name not in encoded:
                continue
            inputs[name] = self._in_dtype(encoded[name])
            inputs[PAST + name] = self._in_dtype(encoded.get(PAST + name, encoded[name][:0]))
        return inputs, encoded["video_metadata"][0]

    def _in_dtype(self, value: Tensor) -> Tensor:
        """Bring pixels to the dtype of the model."""
        return value.to(self.info.ctx.model_config.dtype) if value.is_floating_point() else value

    def tokens_in_prompt(self, inputs: Any) -> list[int]:
        """Return the tokens that stand for a clip of these inputs in a prompt."""
        return inputs[PROMPT].data.tolist()

    def text_behind_clip(self) -> str:
        """Return what the base's chat template writes behind a picture."""
        processor = self.info.get_hf_processor()
        return text_behind_picture(processor.tokenizer, processor.chat_template, processor.video_token)


__all__ = ["PROMPT", "BlankPictures", "PictureInfo", "PictureProcessor"]
