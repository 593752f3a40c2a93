"""H-MBA: a vision tower, the temporal adapter on its frame features, a projector and a causal language model."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from .configuration_hmba import HMBAConfig  # first: it refuses an old transformers

# isort: split
import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin, LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .joining_adapter import build_adapter
from .joining_hmba import build_projector, join_pretrained
from .layers_adapter_state import AdapterState, check_frame_mask
from .layers_attention import differentiable_attention
from .layers_conditions import require
from .layers_vision_tower import read_layer
from .loading_transformers import (
    CACHE_NAME,
    check_language_model,
    check_prefill,
    is_for_attention,
    one_cache,
    rename_cache,
    slice_logits_to_keep,
)
from .outputs_hmba import HMBACausalLMOutputWithPast, HMBAModelOutputWithPast, HMBAVideoFeatures
from .pretrained_hmba import HMBAPreTrainedModel


class HMBAModel(HMBAPreTrainedModel):
    """H-MBA without its language modelling head.

    Source: arXiv:2501.04302, figure 1.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: HMBAConfig):
        super().__init__(config)
        config.check()  # `from_pretrained(path, adapter=...)` sets values after the config's own check
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.temporal_adapter = build_adapter(config, config.vision_config.hidden_size)
        language_model = AutoModel.from_config(config.text_config)
        self._cache_name = check_language_model(language_model)
        width = language_model.get_input_embeddings().embedding_dim
        self.multi_modal_projector = build_projector(config, width)
        self.language_model = language_model
        self.post_init()

    @merge_with_config_defaults
    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor,
        frame_mask: Tensor | None = None,
        vision_feature_layer: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | HMBAVideoFeatures:
        """Encode videos: tower, adapter, projector.

        Args:
            pixel_values_videos: `(videos, t, channels, height, width)`, the current frame last.
            frame_mask: `(videos, t)`, true for real frames; padding comes first.
            vision_feature_layer: in place of the config's.

        Raises:
            ValueError: if the pixels are not five-dimensional or not finite, if the mask does not fit, or if the
                tower does not return a feature for each patch.
        """
        self._check_pixels(pixel_values_videos, frame_mask)
        wants_attentions = kwargs.get("output_attentions", self.config.output_attentions)
        wants_layers = kwargs.pop("output_hidden_states", self.config.output_hidden_states)
        layer: Any = vision_feature_layer
        tower, frame_features = self._encode(pixel_values_videos, layer, wants_layers, **kwargs)  # type: ignore[misc]  # was popped
        video = self.adapt_frame_features(frame_features, frame_mask=frame_mask)
        return HMBAVideoFeatures(
            last_hidden_state=video.last_hidden_state,
            pooler_output=video.pooler_output,
            hidden_states=tower.hidden_states if wants_layers else None,
            attentions=tower.attentions,
            adapter_attentions=video.adapter_attentions if wants_attentions else None,
        )

    def get_frame_features(self, pixel_values_videos: Tensor) -> Tensor:
        """Encode frames by the vision tower alone.

        Args:
            pixel_values_videos: `(videos, t, channels, height, width)`.

        Returns:
            `(videos, t, p, d)`, for `adapt_frame_features`.

        Raises:
            ValueError: as `get_video_features`.
        """
        self._check_pixels(pixel_values_videos, None)
        _, frame_features = self._encode(pixel_values_videos, self.config.vision_feature_layer)
        return frame_features

    def adapt_frame_features(
        self,
        frame_features: Tensor,
        state: AdapterState | None = None,
        frame_mask: Tensor | None = None,
        read_out: bool = True,
        projected: dict[str, Tensor] | None = None,
    ) -> HMBAVideoFeatures:
        """Apply adapter and projector to the features of frames; arguments as in `TemporalAdapter`.

        The result is that of `get_video_features` for the pixels, without running the vision tower again. With a
        state, the frames are the next ones of video streams, and the result holds the state after them.
        """
        given = {"projected": projected} if projected else {}
        features, state, attentions = self.temporal_adapter(frame_features, state, frame_mask, read_out, **given)
        embeddings = None
        if features is not None:
            embeddings = self.multi_modal_projector(features)
        return HMBAVideoFeatures(
            last_hidden_state=features,
            pooler_output=embeddings,
            adapter_attentions=attentions,
            adapter_state=state,
        )

    def _encode(
        self, pixel_values_videos: Tensor, layer: int, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> tuple[Any, Tensor]:
        """Run the vision tower; return its output, and the patches of one layer as `(videos, t, p, d)`."""
        frames = pixel_values_videos.flatten(0, 1).to(self.vision_tower.dtype)
        with differentiable_attention():
            tower, states = read_layer(self.vision_tower, frames, layer, output_hidden_states, **kwargs)
        frame_features = self._select_patches(states).unflatten(0, pixel_values_videos.shape[:2])  # (videos, t, p, d)
        # A tower may have a dtype of its own. The projector's weight may be quantised, but never its bias.
        return tower, frame_features.to(self.multi_modal_projector.bias.dtype)

    def _select_patches(self, hidden_states: Tensor) -> Tensor:
        """Drop the tokens before the patches, such as class and register tokens, if there are any."""
        p = self.config.num_patches
        shape = tuple(hidden_states.shape)
        if len(shape) != 3 or shape[1] < p:
            raise ValueError(f"the vision tower must return (frames, {p} patches or more, channels), got {shape}")
        return hidden_states[:, shape[1] - p :]

    def _check_pixels(self, pixel_values_videos: Tensor, frame_mask: Tensor | None) -> None:
        shape = tuple(pixel_values_videos.shape)
        if len(shape) != 5 or 0 in shape:
            raise ValueError(f"pixel_values_videos must be (videos, frames, channels, height, width), got {shape}")
        require(torch.isfinite(pixel_values_videos).all(), "pixel_values_videos must be finite, got NaN or infinity")
        if frame_mask is not None:
            check_frame_mask(frame_mask, shape[:2])

    def check_frame_features(self, frame_features: Tensor, frame_mask: Tensor | None) -> Tensor:
        """Return frame features in the dtype of the adapter.

        Raises:
            ValueError: if this model's tower cannot have computed them.
        """
        wanted = (self.config.num_patches, self.config.vision_config.hidden_size)
        shape = tuple(frame_features.shape)
        if len(shape) != 4 or 0 in shape or shape[2:] != wanted:
            raise ValueError(f"frame_features must be (videos, frames, {wanted[0]}, {wanted[1]}), got {shape}")
        require(torch.isfinite(frame_features).all(), "frame_features must be finite, got NaN or infinity")
        if frame_mask is not None:
            check_frame_mask(frame_mask, shape[:2])
        return frame_features.to(self.multi_modal_projector.bias.dtype)

    def get_placeholder_mask(
        self, input_ids: Tensor | None, inputs_embeds: Tensor, video: HMBAVideoFeatures | None
    ) -> Tensor:
        """Return where the prompts hold video tokens, `(batch, length, 1)`.

        Raises:
            ValueError: if their number is not that of the features, or not a multiple of `p` in each prompt.
        """
        if input_ids is None:
            token = torch.full((), self.config.video_token_id, dtype=torch.long, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token)).all(-1)
        else:
            mask = input_ids == self.config.video_token_id
        tokens = mask.sum(-1)
        p = self.config.num_patches
        features = 0
        if video is not None:
            features = video["pooler_output"].shape[:-1].numel()
        require(
            tokens.sum() == features,
            lambda: (
                f"the prompts must hold one video token for each of {features} video features, "
                f"got {int(tokens.sum())} tokens"
            ),
        )
        if video is not None and video.get("last_hidden_state") is not None:  # else this is a chunk of a prompt
            require(
                (tokens % p == 0).all(),
                lambda: f"each prompt must hold {p} video tokens for each of its videos, got {tokens.tolist()}",
            )
        return mask[..., None].to(inputs_embeds.device)

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs repeats position_ids
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        frame_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, HMBAVideoFeatures] | None = None,
        frame_features: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | HMBAModelOutputWithPast:
        """Put the videos' features in the place of the video tokens and run the language model.

        Args:
            input_ids: `(batch, length)`; each video stands in it as one video token for each patch.
            pixel_values_videos: `(videos, t, channels, height, width)`, all videos in the order of the prompts.
            frame_mask: `(videos, t)`, true for real frames.
            past_key_values, cache: two names of one argument, the language model's cache.
            mm_encoder_outputs: `{"video": features}` of `get_video_features` in place of pixels; `{}` for no videos.
            frame_features: `(videos, t, p, d)` from `get_frame_features`, in place of pixels.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given, if videos come in several forms
                or a cache under both names, or if the prompt's video tokens do not match the videos.
        """
        cache_name = "cache" if is_for_attention(cache) else self._cache_name
        cache = one_cache(past_key_values, cache)
        inputs_embeds = self._embed(input_ids, inputs_embeds)
        video = self._read_videos(
            pixel_values_videos,
            frame_features=frame_features,
            encoded=(mm_encoder_outputs or {}).get("video"),
            frame_mask=frame_mask,
            wants_attentions=kwargs.get("output_attentions", self.config.output_attentions),
        )
        features = None
        if video is not None:
            inputs_embeds, features = self._fill_in(input_ids, inputs_embeds, video)
        elif cache is None or mm_encoder_outputs is not None:
            self.get_placeholder_mask(input_ids, inputs_embeds, None)
        of_text = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache}
        with differentiable_attention():
            outputs = self.language_model(
                inputs_embeds=inputs_embeds, return_dict=True, **{cache_name: cache}, **of_text, **kwargs
            )
        return HMBAModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_hidden_states=features,
            adapter_attentions=getattr(video, "adapter_attentions", None),
        )

    def _fill_in(
        self, input_ids: Tensor | None, inputs_embeds: Tensor, video: HMBAVideoFeatures
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings with features in the place of video tokens, and the features."""
        features = video["pooler_output"].to(inputs_embeds.device, inputs_embeds.dtype)
        mask = self.get_placeholder_mask(input_ids, inputs_embeds, video)
        return inputs_embeds.masked_scatter(mask, features), features

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Return the embeddings of ids, or those given in their place."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given, got both or neither")
        embeddings = self.get_input_embeddings()
        self._check_vocabulary(getattr(embeddings, "num_embeddings", None))
        return embeddings(input_ids) if inputs_embeds is None else inputs_embeds

    def _read_videos(
        self,
        pixel_values_videos: Tensor | None,
        frame_features: Tensor | None,
        encoded: HMBAVideoFeatures | None,
        frame_mask: Tensor | None,
        wants_attentions: bool | None,
    ) -> HMBAVideoFeatures | None:
        """Return the features of videos in whichever form they are given, if there are any."""
        if sum(form is not None for form in (pixel_values_videos, frame_features, encoded)) > 1:
            raise ValueError(
                "one of pixel_values_videos, frame_features and mm_encoder_outputs must be given, got more than one"
            )
        if pixel_values_videos is not None:
            return self.get_video_features(
                pixel_values_videos, frame_mask, return_dict=True, output_attentions=wants_attentions
            )
        if frame_features is None:
            return encoded
        video = self.adapt_frame_features(self.check_frame_features(frame_features, frame_mask), frame_mask=frame_mask)
        if not wants_attentions:
            video.adapter_attentions = None
        return video


class HMBAForConditionalGeneration(HMBAPreTrainedModel, GenerationMixin):
    """H-MBA that answers about driving videos: `HMBAModel` and a language modelling head.

    The head is linear; the language model's config scales and caps its logits. Generation never yields a video token,
    for which there would be no video.

    Source: arXiv:2501.04302.
    """

    _auto_class = "AutoModelForImageTextToText"
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: HMBAConfig):
        super().__init__(config)
        self.model = HMBAModel(config)
        embeddings: Any = self.get_input_embeddings()
        self.lm_head = nn.Linear(embeddings.embedding_dim, config.text_config.vocab_size, bias=config.lm_head_bias)
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str, video_token: str = "<video>", dtype: Any = "auto", **kwargs: Any
    ) -> "HMBAForConditionalGeneration":
        """Join a pretrained vision tower and a pretrained causal language model by a fresh adapter and projector.

        The adapter starts as the identity. The video token's id is the one it gets when added to the language model's
        tokenizer, as `HMBAProcessor.from_vision_text_pretrained` adds it.

        Args:
            vision: path or Hub id of a vision model, or of a vision-text model, whose vision tower is used.
            text: path or Hub id of a causal language model with its tokenizer.
            video_token: placeholder of one visual patch.
            dtype: of all weights, since a checkpoint has one dtype; `"auto"` is the language model's own.
                `torch_dtype` is its older name.
            kwargs: further values of `HMBAConfig`, and options of `from_pretrained` for both parts: `revision`,
                `token`, `device_map`, `max_memory`, `offload_folder`, `quantization_config`, `subfolder`, `variant`,
                `use_safetensors`, `cache_dir`, `force_download`, `local_files_only` and `proxies`. With `vision_` or
                `text_` before its name, an option is for one part. `attn_implementation` is for the whole model.
                `gguf_file` names a GGUF file of the language model, whose weights are unpacked.

        Raises:
            ValueError: if `HMBAConfig` has no such value, if a checkpoint lacks weights that are read or holds
                low-rank updates, if the tower returns no patches, or if the joined model's logits for text would not
                be the language model's own.
        """
        return join_pretrained(cls, vision, text, video_token=video_token, dtype=dtype, values=kwargs)

    def prepare_inputs_for_generation(self, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any) -> dict:
        """Mark the prompt, whose video tokens need videos; an assistant's draft does not."""
        inputs = super().prepare_inputs_for_generation(*args, inputs_embeds=inputs_embeds, **kwargs)
        if kwargs.get("is_first_iteration"):
            inputs["mm_encoder_outputs"] = inputs.get("mm_encoder_outputs") or {}
        return inputs

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        # Transformers has no public way to add a processor to every call of `generate`.
        processors = super()._get_logits_processor(*args, **kwargs)  # type: ignore[misc]  # typed for its mixin
        no_video = SuppressTokensLogitsProcessor([self.config.video_token_id], kwargs.get("device") or "cpu")
        return LogitsProcessorList([no_video, *processors])

    def get_video_features(
        self, pixel_values_videos: Tensor, frame_mask: Tensor | None = None, **kwargs: Any
    ) -> HMBAVideoFeatures:
        """Encode videos; see `HMBAModel.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, frame_mask, **kwargs)

    def get_frame_features(self, pixel_values_videos: Tensor) -> Tensor:
        """Encode frames by the vision tower alone; see `HMBAModel.get_frame_features`."""
        return self.model.get_frame_features(pixel_values_videos)

    def adapt_frame_features(self, frame_features: Tensor, *args: Any, **kwargs: Any) -> HMBAVideoFeatures:
        """Apply adapter and projector to the features of frames; see `HMBAModel.adapt_frame_features`."""
        return self.model.adapt_frame_features(frame_features, *args, **kwargs)

    def generate(self, *args: Any, frame_features: Tensor | None = None, **kwargs: Any) -> Any:
        """Generate as every model of transformers does; `frame_features` may replace the videos as in `forward`."""
        check_prefill(kwargs, self.generation_config)
        if frame_features is not None:
            mask = kwargs.pop("frame_mask", None)
            with torch.no_grad():
                video = self.adapt_frame_features(
                    self.model.check_frame_features(frame_features, mask), frame_mask=mask
                )
            kwargs["mm_encoder_outputs"] = {"video": video}
        return super().generate(*args, **rename_cache(kwargs))

    def generate_batch(self, inputs: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        """Answer prompts of text alone together, as every model of transformers does.

        Raises:
            ValueError: if a prompt holds video tokens, since transformers passes no videos on here.
            TypeError: if transformers would ignore an option.
        """
        theirs = super().generate_batch
        known = {"max_new_tokens", *inspect.signature(theirs).parameters} - {"kwargs"}
        if unknown := sorted(kwargs.keys() - known):
            raise TypeError(f"options of generate_batch must be among {sorted(known)}, got {unknown}")
        for number, prompt in enumerate(inputs):
            if self.config.video_token_id in prompt:
                raise ValueError(f"prompts of generate_batch must be without videos, got one in prompt {number}")
        return theirs(inputs, *args, **kwargs)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Return the manager that answers prompts of text alone as they come, as every model of transformers does.

        Its `add_request` and `add_requests` raise a `ValueError` for a prompt with video tokens.
        """
        manager = super().init_continuous_batching(*args, **kwargs)
        if "add_request" not in vars(manager):  # transformers may return the manager of an earlier call
            vars(manager)["add_request"] = partial(_add_text, manager.add_request, self.config.video_token_id)
        return manager

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs repeats position_ids
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        frame_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, HMBAVideoFeatures] | None = None,
        frame_features: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | HMBACausalLMOutputWithPast:
        """Predict the next token at each position; arguments as in `HMBAModel.forward`.

        Args:
            labels: `(batch, length)`, -100 where no loss is wanted; shifted inside.
            logits_to_keep: compute logits, and the loss, for this many last positions only; for all when 0; or for
                these positions, as in `slice_logits_to_keep`.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            frame_mask=frame_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            frame_features=frame_features,
            return_dict=True,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        logits = _scale_and_cap(logits, self.config.text_config)
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            if not isinstance(logits_to_keep, int) or logits_to_keep:
                next_labels = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
                kept = slice_logits_to_keep(next_labels[..., None], logits_to_keep)
                kwargs["shift_labels"] = kept[..., 0].contiguous()
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return HMBACausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_hidden_states=outputs.video_hidden_states,
            adapter_attentions=outputs.adapter_attentions,
        )


def _add_text(add_request: Callable, video_token_id: int, input_ids: list[int], *args: Any, **kwargs: Any) -> Any:
    """Pass a prompt to a manager of continuous batches, if it holds no video tokens."""
    if video_token_id in input_ids:
        raise ValueError("prompts of continuous batches must be without videos, got one with video tokens")
    return add_request(input_ids, *args, **kwargs)


def _scale_and_cap(logits: Tensor, text_config: Any) -> Tensor:
    """Scale and cap logits as the classes of Cohere (scale), Granite (inverse scale) and Gemma (cap) do."""
    if (scale := getattr(text_config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (scale := getattr(text_config, "logits_scaling", None)) is not None:
        logits = logits / scale
    if (cap := getattr(text_config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
