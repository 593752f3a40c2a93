"""Prompts and the frames of their clips through a base's processor; inputs of single prompts joined to a batch."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from transformers.processing_utils import ProcessorMixin

from .batching_hmba import TEXT_INPUTS, join_texts

PAST = "past_"  # before the names of the image inputs of earlier frames
OFFSETS = "text_replacement_offsets"


class PictureEncoder:
    """A base's own processor, through which prompts and the frames of their clips go as pictures.

    Args:
        base_processor: of a vision-language model of transformers.
    """

    def __init__(self, base_processor: Any) -> None:
        self.base_processor = base_processor

    @property
    def token_id(self) -> int:
        """Id of the token that stands in encoded prompts for one row of a picture's features."""
        own = getattr(self.base_processor.tokenizer, "image_token_id", None)
        return self.base_processor.image_token_id if own is None else own  # Gemma's is that of its start token

    def known_options(self) -> dict[str, set[str]]:
        """Name the options of a call of the base by their kind; those of no kind stand under `""`."""
        kinds = self.base_processor.valid_processor_kwargs.__annotations__
        pictures = getattr(self.base_processor.image_processor.valid_kwargs, "__annotations__", {})
        call = inspect.signature(type(self.base_processor).__call__).parameters
        return {
            "": {*kinds, *call} - {"self", "images", "text", "videos", "audio", "kwargs", "audio_kwargs"},
            "text_kwargs": {*kinds["text_kwargs"].__annotations__},
            "images_kwargs": {*kinds["images_kwargs"].__annotations__, *pictures},
        }

    def encode(self, prompts: list[str], clips: list[list[np.ndarray]], options: Mapping[str, Any]) -> dict[str, Any]:
        """Encode prompts with their clips.

        Args:
            prompts: texts of the base with a placeholder for each clip.
            clips: of each prompt, frames `(t, 3, h, w)`, the current one last.
            options: of a call of the base.

        Returns:
            What the base gives for prompts and current frames; of earlier frames the image inputs, with `past_`
            before their names; `past_lengths` and `picture_tokens`, `(pictures,)`. With `text_replacement_offsets`
            if the base gives them.

        Raises:
            ValueError: if earlier frames have other numbers of tokens than the current one of their clip; a single
                one may, among several pictures of a prompt.
        """
        current = []
        for of_prompt in clips:
            current.append([as_picture(frames[-1]) for frames in of_prompt])
        wanted = self._with_kinds(options)
        is_own_call = type(self.base_processor).__call__ is not ProcessorMixin.__call__
        if current[0] or not is_own_call:  # InternVL's own would make a tensor of replacements that begin with none
            wanted[f"return_{OFFSETS}"] = True
        encoded = dict(self.base_processor(images=current, text=prompts, **wanted))
        tensors = _tensor_type(encoded["input_ids"])
        of_pictures = {**options, "return_tensors": tensors}
        tokens = self._count_tokens(encoded, current, of_pictures)
        lengths = [len(frames) - 1 for of_prompt in clips for frames in of_prompt]
        encoded |= self._encode_past(clips, tokens, of_pictures)
        encoded["past_lengths"] = _as_type(lengths, tensors)
        encoded["picture_tokens"] = _as_type(tokens, tensors)
        return encoded

    def encode_texts(self, prompts: list[str], options: Mapping[str, Any]) -> Any:
        """Encode prompts without pictures as the base does; `options` of a call."""
        return self.base_processor(text=prompts, **self._with_kinds(options))

    def _with_kinds(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for the kinds of tokens where the base names them: Cosmos 3 Edge needs them, and has to be asked."""
        if "mm_token_type_ids" in self.base_processor.model_input_names:
            return {"return_mm_token_type_ids": True, **options}
        return dict(options)

    def encode_alone(self, pictures: list[list[Image.Image]], options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the image inputs of pictures by prompt, in which nothing else stands; `options` of a call."""
        encoded = self._call(pictures, options)
        return {name: value for name, value in encoded.items() if name not in TEXT_INPUTS}

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width to which the base resizes a frame, found from a black and a white one.

        Args:
            size: height and width of the frame.

        Raises:
            ValueError: if the base pads or crops such a frame or cuts it into pieces, or if its inputs do not tell the
                size.
        """
        image_processor = self.base_processor.image_processor
        name = type(image_processor).__name__
        height, width = size
        frames = [[Image.new("RGB", (width, height), shade)] for shade in ("black", "white")]
        inputs = self.encode_alone(frames, {"return_tensors": "pt"})
        pixels: Any = inputs.get("pixel_values")
        if "image_grid_thw" in inputs:
            _, rows, columns = inputs["image_grid_thw"][0].tolist()
            resized = (rows * image_processor.patch_size, columns * image_processor.patch_size)
        elif isinstance(pixels, Tensor) and pixels.ndim >= 4:
            resized = (pixels.shape[-2], pixels.shape[-1])
            if len(pixels.flatten(0, -4)) != len(frames):
                shape = tuple(pixels.shape[1:])
                raise ValueError(f"the base must resize a frame of {size} as one picture, got pieces of shape {shape}")
        else:
            raise ValueError(
                f"the base must tell to which size it resizes a frame, by a whole picture or an image_grid_thw, got "
                f"patches alone of {name}"
            )
        black, white = pixels.chunk(2)
        if (black == white).any():
            raise ValueError(f"the base must fill its picture with a frame of {size}, got {name}, which pads it")
        if getattr(image_processor, "do_center_crop", None):
            whole = self.encode_alone(frames, {"return_tensors": "pt", "do_center_crop": False})["pixel_values"]
            if whole.shape != pixels.shape:
                raise ValueError(f"the base must see all of a frame of {size}, got {name}, which crops it")
        return resized

    def _call(self, pictures: list[list[Image.Image]], options: Mapping[str, Any]) -> dict[str, Any]:
        """Encode prompts of nothing but pictures; only options about pictures count."""
        known = {*self.known_options()["images_kwargs"], "images_kwargs", "common_kwargs"}
        of_pictures = {name: value for name, value in options.items() if name in known}
        prompts = [self.base_processor.image_token * len(of_prompt) for of_prompt in pictures]
        can_pad = self.base_processor.tokenizer.pad_token is not None
        return dict(self.base_processor(images=pictures, text=prompts, padding=can_pad, **of_pictures))

    def _encode_past(
        self, clips: list[list[np.ndarray]], tokens: list[int], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the image inputs of all earlier frames, clip after clip; `tokens` are those of each clip."""
        groups: list[list[Image.Image]] = []
        expected = []
        single = []  # groups of the one earlier frame of a prompt with several pictures
        of_clips = iter(tokens)
        for of_prompt in clips:
            pictures = []
            wanted = []
            for frames in of_prompt:
                pictures += [as_picture(frame) for frame in frames[:-1]]
                wanted += [next(of_clips)] * (len(frames) - 1)
            if len(of_prompt) > 1 and pictures:  # some bases crop a picture that is alone in its prompt, and no others
                if len(pictures) == 1:
                    single.append(len(groups))
                groups.append(pictures)
                expected.append(sum(wanted))
            else:
                groups += [[picture] for picture in pictures]
                expected += wanted
        if not groups:
            return {}
        encoded = self._call(groups, options)
        found = self._tokens_in(encoded)
        for number in single:
            if found[number] != expected[number]:
                raise ValueError(
                    "a prompt of several pictures must have no earlier frames or more than one in all, where the base "
                    f"encodes a picture alone otherwise, got one of {found[number]} tokens in place of "
                    f"{expected[number]}"
                )
        if found != expected:
            raise ValueError(
                f"earlier frames must have as many tokens as the current one of their clip, {expected}, got {found}"
            )
        return {PAST + name: value for name, value in encoded.items() if name not in TEXT_INPUTS}

    def _count_tokens(
        self, encoded: Mapping[str, Any], pictures: list[list[Image.Image]], options: Mapping[str, Any]
    ) -> list[int]:
        """Count the tokens of each picture in its prompt."""
        in_prompts = self._tokens_in(encoded)
        if all(len(of_prompt) <= 1 for of_prompt in pictures):
            return [count for count, of_prompt in zip(in_prompts, pictures, strict=True) if of_prompt]
        counts: list[list[int]] = []
        if OFFSETS in encoded:
            token = self.base_processor.tokenizer.convert_ids_to_tokens(self.token_id)
            for changes in encoded[OFFSETS]:
                counts.append([change["replacement"].count(token) for change in changes])
        else:
            for of_prompt in pictures:
                alone = [[picture] for picture in of_prompt]
                counts.append(self._tokens_in(self._call(alone, options)) if alone else [])
        if [sum(of_prompt) for of_prompt in counts] != in_prompts:
            raise ValueError(f"the pictures of each prompt must have all {in_prompts} picture tokens, got {counts}")
        return [count for of_prompt in counts for count in of_prompt]

    def _tokens_in(self, encoded: Mapping[str, Any]) -> list[int]:
        """Count the tokens of pictures in each prompt."""
        return [int((np.asarray(row) == self.token_id).sum()) for row in encoded["input_ids"]]


def as_picture(frame: np.ndarray) -> Image.Image:
    """Make a picture of a frame, `(3, h, w)`, of 8 bits or in [0, 1]."""
    if frame.dtype != np.uint8:
        frame = np.round(frame * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(frame, 0, -1)))


def _tensor_type(value: Any) -> str | None:
    """Return the option `return_tensors` by which a value came."""
    if isinstance(value, Tensor):
        return "pt"
    return "np" if isinstance(value, np.ndarray) else None


def _as_type(values: list[int], tensors: str | None) -> Any:
    """Bring whole numbers to the form of the other inputs."""
    if tensors is None:
        return values
    array = np.asarray(values, dtype=np.int64)
    return torch.from_numpy(array) if tensors == "pt" else array


def join_inputs(encoded: Sequence[Mapping[str, Any]], pad_token_id: int, padding_side: str = "left") -> dict[str, Any]:
    """Join inputs of single prompts to those of a batch, as the processor makes them for all prompts at once.

    Args:
        encoded: of each prompt, texts `(1, l)`, image inputs of its pictures and, with `past_` before their names, of
            their earlier frames, `past_lengths` and `picture_tokens`, `(pictures,)`, and `frame_features`, one
            `(t, p, d)` for each picture. Prompts may lack pictures, or earlier frames.
        pad_token_id: fills `input_ids`.
        padding_side: of texts, `"left"` for generation or `"right"`.

    Returns:
        Texts padded to one length; image inputs in the order of the prompts, joined along their first axis. Where
        other axes differ in length, zeros fill the ends.

    Raises:
        ValueError: if image inputs differ in their axes, or as `join_texts`.
    """
    joined: dict[str, Any] = join_texts(encoded, pad_token_id, padding_side)
    names: dict[str, None] = {}  # in order, each once
    for inputs in encoded:
        names |= dict.fromkeys(inputs)
    for name in names:
        values = [inputs[name] for inputs in encoded if name in inputs]
        if name in TEXT_INPUTS:
            continue
        if isinstance(values[0], Tensor):
            joined[name] = _join_pictures(name, values)
        else:
            joined[name] = [item for value in values for item in value]
    return joined


def _join_pictures(name: str, values: list[Tensor]) -> Tensor:
    """Pad image inputs behind their first axis, and join them along it."""
    if len({value.ndim for value in values}) > 1:
        shapes = [tuple(value.shape) for value in values]
        raise ValueError(f"{name} of all prompts must have as many axes, got shapes {shapes}")
    lengths = []
    for axis in range(1, values[0].ndim):
        lengths.append(max(value.shape[axis] for value in values))
    padded = []
    for value in values:
        widths: list[int] = []  # of the last axis first, as torch wants them
        for length, own in zip(reversed(lengths), reversed(value.shape[1:]), strict=True):
            widths += [0, length - own]
        padded.append(pad(value, widths))
    return torch.cat(padded)


__all__ = ["OFFSETS", "PAST", "PictureEncoder", "as_picture", "join_inputs"]
