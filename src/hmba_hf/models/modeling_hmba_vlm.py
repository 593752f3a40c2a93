"""H-MBA on a vision-language model of transformers: a temporal adapter on what its language model reads of a picture.

The inputs are the base's own, about its text and its pictures; each picture is the current frame of a clip. Besides
come the earlier frames of the clips: the same inputs with `past_` before their names. Nothing of the base's insides is
known here: its `get_image_features` encodes pictures, and its forward takes what the adapter makes of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from .configuration_hmba_vlm import HMBAVLMConfig  # first: it refuses an old transformers

# isort: split
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, Cache
from transformers.generation import GenerationMixin

from .encoding_hmba_vlm import (
    PAST,
    check_pixels,
    has_pixels,
    join_clips,
    part_pictures,
    picture_names,
    read_features,
    split_rows,
    with_rows,
    without_pixels,
)
from .joining_adapter import build_adapter
from .joining_hmba_vlm import adapt_pretrained, check_door, tied_within
from .layers_adapter_state import AdapterState
from .layers_attention import differentiable_attention
from .layers_conditions import require
from .loading_transformers import CACHE_NAME, one_cache
from .outputs_hmba import HMBAVideoFeatures
from .pretrained_hmba_vlm import HMBAVLMPreTrainedModel


class HMBAVLMModel(HMBAVLMPreTrainedModel):
    """A vision-language model with a temporal adapter, without logits.

    The base is whole, its language modelling head included, so that its weights have one set of names.

    Source: arXiv:2501.04302.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: HMBAVLMConfig):
        super().__init__(config)
        config.check()  # `from_pretrained(path, adapter=...)` sets values after the config's own check
        self.base = AutoModelForImageTextToText.from_config(config.base_config)
        config.base_config = self.base.config  # one object, as where the vocabulary grows
        check_door(self.base)
        self.temporal_adapter = build_adapter(config, config.hidden_size).float()
        self._tied_weights_keys = tied_within("base", self.base)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of the base."""
        return self.base.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of the base."""
        self.base.set_input_embeddings(value)

    def get_image_features(self, **pictures: Any) -> Any:
        """Encode pictures as the base does, each by itself.

        Args:
            pictures: the base's inputs about pictures, such as `pixel_values` and `image_grid_thw`.

        Returns:
            The base's own output, with the rows that the language model reads; a tuple with `return_dict=False`.

        Raises:
            ValueError: if pixels are not finite.
        """
        check_pixels(pictures)
        pictures.setdefault("return_dict", self.config.return_dict)
        with differentiable_attention():
            return self.base.base_model.get_image_features(**pictures)

    def get_frame_features(self, picture_tokens: Tensor | None = None, **pictures: Any) -> list[Tensor]:
        """Encode pictures, and return the rows, `(p, d)`, of each, for `adapt_frame_features`.

        Args:
            picture_tokens: `(pictures,)`, the tokens of each in a prompt, where the base encodes a picture in pieces.
            pictures: as in `get_image_features`.
        """
        tokens = None if picture_tokens is None else picture_tokens.tolist()
        return split_rows(self._features_of(pictures), tokens, None)

    def adapt_frame_features(
        self,
        frame_features: Tensor,
        state: AdapterState | None = None,
        frame_mask: Tensor | None = None,
        read_out: bool = True,
        projected: dict[str, Tensor] | None = None,
    ) -> HMBAVideoFeatures:
        """Apply the adapter to rows of frames; arguments as in `TemporalAdapter`.

        Args:
            frame_features: `(b, t, p, d)`, the current frame last, in any dtype; the adapter computes in its own.

        Returns:
            `last_hidden_state` and `pooler_output` are one, `(b, p, d)`. With a state, the frames are the next ones of
            video streams, and `adapter_state` is that after them.

        Raises:
            ValueError: if the features are not of this shape or not finite, or as `TemporalAdapter`.
        """
        shape = tuple(frame_features.shape)
        width = self.config.hidden_size
        if len(shape) != 4 or 0 in shape or shape[-1] != width:
            raise ValueError(f"frame_features must be (clips, frames, tokens, {width}), got {shape}")
        require(torch.isfinite(frame_features).all(), "frame_features must be finite, got NaN or infinity")
        parameter = next(self.temporal_adapter.parameters(), None)
        if parameter is not None:
            frame_features = frame_features.to(parameter.dtype)
        if parameter is not None and not parameter.is_meta:  # accelerate brings features to weights that lie on a disk
            frame_features = frame_features.to(parameter.device)
        given = {"projected": projected} if projected else {}
        features, state, attentions = self.temporal_adapter(frame_features, state, frame_mask, read_out, **given)
        return HMBAVideoFeatures(
            last_hidden_state=features,
            pooler_output=features,
            adapter_attentions=attentions,
            adapter_state=state,
        )

    def with_features(self, output: Any, rows: Iterable[Tensor]) -> Any:
        """Return an output of `get_image_features` with adapted rows, `(p, d)` for each picture, in their place."""
        return with_rows(output, rows, self.config.hidden_size)

    def encode_clips(
        self,
        past_lengths: Tensor | None = None,
        picture_tokens: Tensor | None = None,
        frame_features: Iterable[Tensor] | None = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        """Encode and adapt the clips among inputs, and return what the base takes in their place.

        Args:
            past_lengths: `(pictures,)`, how many earlier frames each picture of the prompts has; none when absent.
            picture_tokens: as in `get_frame_features`.
            frame_features: rows of all frames of each clip, `(t, p, d)`, from `get_frame_features`, in the place of
                earlier frames.
            inputs: of the base; those about pictures also with `past_` before their names, which are of all earlier
                frames, clip by clip in the order of the pictures, old frames first.

        Raises:
            ValueError: if frames and pictures do not fit, or if there are earlier frames but no picture.
        """
        names = picture_names(self.base)
        past = {name: inputs.pop(PAST + name) for name in names if PAST + name in inputs}
        if not has_pixels(inputs):
            if past or frame_features is not None:
                raise ValueError("earlier frames must come with the pictures of the current ones, got none of these")
            return inputs
        if inputs.get("mm_encoder_outputs"):
            raise ValueError("pictures must come as pixels or as mm_encoder_outputs, got both")
        pictures = {name: inputs[name] for name in names if name in inputs}
        output = self.get_image_features(**pictures, return_dict=True)
        lengths = None if past_lengths is None else past_lengths.tolist()
        tokens = None if picture_tokens is None else picture_tokens.tolist()
        features = read_features(output, self.config.hidden_size)
        current = split_rows(features, tokens, None if lengths is None else len(lengths))
        if frame_features is not None:
            clips = list(frame_features)
            if len(clips) != len(current):
                raise ValueError(f"frame_features must be one for each of {len(current)} pictures, got {len(clips)}")
        else:
            earlier: list[Tensor] = []
            if has_pixels(past):
                for part in part_pictures(past, sum(lengths or [])):
                    earlier += self._features_of(part)
            clips = join_clips(current, earlier, lengths or [0] * len(current))
        adapted = self._adapt(clips)
        return {**without_pixels(inputs), "mm_encoder_outputs": {"image": self.with_features(output, adapted)}}

    def _features_of(self, pictures: dict[str, Any]) -> Any:
        """Encode pictures, and return what the language model reads of them, in the base's own containers."""
        return read_features(self.get_image_features(**pictures, return_dict=True), self.config.hidden_size)

    def _adapt(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Adapt clips, `(t, p, d)` each, those of one `p` together; return `(p, d)` of each."""
        by_rows: dict[int, list[int]] = {}
        for number, clip in enumerate(clips):
            by_rows.setdefault(clip.shape[1], []).append(number)
        adapted: dict[int, Tensor] = {}
        for numbers in by_rows.values():
            together = [clips[number] for number in numbers]
            frames, frame_mask = _pad_in_front(together)
            features: Any = self.adapt_frame_features(frames, frame_mask=frame_mask).last_hidden_state
            adapted.update(zip(numbers, features, strict=True))
        return [adapted[number] for number in range(len(clips))]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the base without its head on text and adapted clips.

        Args:
            input_ids: `(batch, length)`; each clip stands in it as one picture.
            past_key_values, cache: two names of one argument, the language model's cache.
            kwargs: as in `encode_clips`.

        Returns:
            The base's own output.
        """
        kwargs |= {"position_ids": position_ids, "inputs_embeds": inputs_embeds}
        kwargs[CACHE_NAME] = one_cache(past_key_values, cache)
        inputs = self.encode_clips(**kwargs)
        with differentiable_attention():
            return self.base.base_model(input_ids=input_ids, attention_mask=attention_mask, **inputs)


def _pad_in_front(clips: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack clips, `(t, p, d)` each, to `(b, t, p, d)`, and return the mask of real frames if lengths differ."""
    length = max(map(len, clips))
    padded = []
    for clip in clips:
        missing = clip.new_zeros(length - len(clip), *clip.shape[1:])
        padded.append(torch.cat([missing, clip]))
    lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
    if (lengths == length).all():
        return torch.stack(padded), None
    places = torch.arange(length, device=lengths.device)
    return torch.stack(padded), places >= length - lengths[:, None]


class HMBAVLMForConditionalGeneration(HMBAVLMPreTrainedModel, GenerationMixin):
    """A vision-language model that answers about clips: `HMBAVLMModel` with the logits of its base.

    With a fresh adapter, its answers are the base's own about the current frame.

    Source: arXiv:2501.04302.
    """

    _auto_class = "AutoModelForImageTextToText"

    def __init__(self, config: HMBAVLMConfig):
        super().__init__(config)
        self.model = HMBAVLMModel(config)
        self._tied_weights_keys = tied_within("model", self.model)
        base: Any = self.model.base
        self.generation_config = base.generation_config
        if hasattr(base, "accepts_loss_kwargs"):
            self.accepts_loss_kwargs = base.accepts_loss_kwargs
        self.post_init()

    @classmethod
    def from_base_pretrained(cls, base: str, dtype: Any = "auto", **kwargs: Any) -> "HMBAVLMForConditionalGeneration":
        """Put a fresh adapter, which starts as the identity, on a pretrained vision-language model.

        Args:
            base: path or Hub id of a model of `AutoModelForImageTextToText`.
            dtype: of the base; `"auto"` is its own. The adapter is in float32.
            kwargs: values of the adapter, see `HMBAVLMConfig`, and options of `from_pretrained`, such as `revision`,
                `token`, `device_map` and `quantization_config`.

        Raises:
            ValueError: if the base cannot take features in the place of pictures, if its checkpoint lacks weights, or
                for an option that nothing reads.
        """
        return adapt_pretrained(cls, base, dtype=dtype, values=kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of the base."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of the base."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the language modelling head of the base."""
        return self.model.base.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language modelling head of the base."""
        self.model.base.set_output_embeddings(new_embeddings)

    def get_image_features(self, **pictures: Any) -> Any:
        """Encode pictures; see `HMBAVLMModel.get_image_features`."""
        return self.model.get_image_features(**pictures)

    def get_frame_features(self, picture_tokens: Tensor | None = None, **pictures: Any) -> list[Tensor]:
        """Encode frames; see `HMBAVLMModel.get_frame_features`."""
        return self.model.get_frame_features(picture_tokens, **pictures)

    def adapt_frame_features(self, frame_features: Tensor, *args: Any, **kwargs: Any) -> HMBAVideoFeatures:
        """Apply the adapter to rows of frames; see `HMBAVLMModel.adapt_frame_features`."""
        return self.model.adapt_frame_features(frame_features, *args, **kwargs)

    def with_features(self, output: Any, rows: Iterable[Tensor]) -> Any:
        """Put adapted rows into a base's output; see `HMBAVLMModel.with_features`."""
        return self.model.with_features(output, rows)

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate as the base does, about clips; arguments are those of its `generate` and of `forward`."""
        base: Any = self.model.base
        base.generation_config = self.generation_config
        return base.generate(inputs, *args, **self.model.encode_clips(**kwargs))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Predict the next token at each position; arguments as in `HMBAVLMModel.forward`.

        Args:
            labels: `(batch, length)`, -100 where no loss is wanted; shifted inside.

        Returns:
            The base's own output.
        """
        kwargs |= {"position_ids": position_ids, "inputs_embeds": inputs_embeds}
        kwargs[CACHE_NAME] = one_cache(past_key_values, cache)
        inputs = self.model.encode_clips(**kwargs)
        with differentiable_attention():
            return self.model.base(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **inputs)
