"""H-MBA: a vision tower, the temporal adapter on its frame features, a projector and a causal language model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, ModelOutput
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, torch_compilable_check
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import select_hidden_states

from .configuration_hmba import HMBAConfig
from .layers_mamba import MambaMixer
from .layers_temporal_adapter import (
    AddFusion,
    ContextMamba,
    CosineFusion,
    CrossAttentionFusion,
    CurrentFrameAdapter,
    MeanFrameAdapter,
    QueryMamba,
    TemporalAdapter,
    TransformerAdapter,
)


@dataclass
class HMBAVideoFeatures(BaseModelOutputWithPooling):
    """What `get_video_features` returns.

    Attributes:
        last_hidden_state: adapted features of each video's current frame, `(videos, p, d)`.
        pooler_output: the same, projected to the language model, `(videos, p, hidden_size)`.
        hidden_states, attentions: of the vision tower, for all frames, when asked for.
        adapter_attentions: the query's attention to each context, `{"branch/stride_n": (videos, heads, p, 1 or p)}`,
            with `output_attentions`.
    """

    adapter_attentions: dict[str, Tensor] | None = None


@dataclass
class HMBAModelOutputWithPast(BaseModelOutputWithPast):
    """Output of `HMBAModel`.

    Attributes:
        video_hidden_states: projected features of each video, `(videos, p, hidden_size)`.
        adapter_attentions: as in `HMBAVideoFeatures`.
    """

    video_hidden_states: Tensor | None = None
    adapter_attentions: dict[str, Tensor] | None = None


@dataclass
class HMBACausalLMOutputWithPast(ModelOutput):
    """Output of `HMBAForConditionalGeneration`.

    Attributes:
        loss: next-token cross entropy over labels other than -100, when labels are given.
        logits: `(batch, length, vocab_size)`.
        past_key_values: the language model's cache.
        hidden_states, attentions: of the language model, when asked for.
        video_hidden_states, adapter_attentions: as in `HMBAModelOutputWithPast`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    video_hidden_states: Tensor | None = None
    adapter_attentions: dict[str, Tensor] | None = None


class HMBAPreTrainedModel(PreTrainedModel):
    """What all H-MBA models share: loading, saving, initialisation."""

    config: HMBAConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["video", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["TemporalAdapter", "TransformerAdapter"]
    _skip_keys_device_placement = ["past_key_values"]
    _keep_in_fp32_modules_strict = ["A_log"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (MambaMixer, CrossAttentionFusion, CosineFusion, AddFusion, QueryMamba)):
            module.reset_parameters()
        elif isinstance(module, (ContextMamba, TransformerAdapter, TemporalAdapter)):
            for name in ("temporal_position_embedding", "gate"):
                if getattr(module, name, None) is not None:
                    init.zeros_(getattr(module, name))


class HMBAModel(HMBAPreTrainedModel):
    """H-MBA without its language modelling head.

    Source: arXiv:2501.04302, figure 1.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: HMBAConfig):
        super().__init__(config)
        config.check()  # `from_pretrained(path, adapter=...)` sets values after the config's own check
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.temporal_adapter = _build_adapter(config)
        self.multi_modal_projector = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @merge_with_config_defaults
    @can_return_tuple
    @select_hidden_states("vision_feature_layer")
    def get_video_features(
        self,
        pixel_values_videos: Tensor,
        frame_mask: Tensor | None = None,
        vision_feature_layer: int | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | HMBAVideoFeatures:
        """Encode videos: tower, adapter, projector.

        Args:
            pixel_values_videos: `(videos, t, channels, height, width)`, the current frame last.
            frame_mask: `(videos, t)`, true for real frames; padding comes first.
            vision_feature_layer, vision_feature_select_strategy: instead of the config's.

        Raises:
            ValueError: if the pixels are not five-dimensional or not finite, or the mask does not fit.
        """
        self._check_pixels(pixel_values_videos, frame_mask)
        frames = pixel_values_videos.flatten(0, 1).to(self.vision_tower.dtype)
        tower = self.vision_tower(frames, return_dict=True, **kwargs)
        frame_features = tower.hidden_states[vision_feature_layer]  # (videos * t, 1 + p, d)
        if vision_feature_select_strategy == "default":
            frame_features = frame_features[:, 1:]
        frame_features = frame_features.unflatten(0, pixel_values_videos.shape[:2])
        frame_features = frame_features.to(self.multi_modal_projector.weight.dtype)  # a tower may have its own
        features, attentions = self.temporal_adapter(frame_features, frame_mask)
        wants_attentions = kwargs.get("output_attentions", self.config.output_attentions)
        return HMBAVideoFeatures(
            last_hidden_state=features,
            pooler_output=self.multi_modal_projector(features),
            hidden_states=tower.hidden_states,
            attentions=tower.attentions,
            adapter_attentions=attentions if wants_attentions else None,
        )

    def _check_pixels(self, pixel_values_videos: Tensor, frame_mask: Tensor | None) -> None:
        shape = tuple(pixel_values_videos.shape)
        if len(shape) != 5 or 0 in shape:
            raise ValueError(f"pixel_values_videos must be (videos, frames, channels, height, width), got {shape}")
        if frame_mask is not None and tuple(frame_mask.shape) != shape[:2]:
            raise ValueError(f"frame_mask must be {shape[:2]}, a value for each frame, got {tuple(frame_mask.shape)}")
        if pixel_values_videos.device.type != "meta":
            torch_compilable_check(
                torch.isfinite(pixel_values_videos).all(), "pixel_values_videos must be finite, got NaN or infinity"
            )
            if frame_mask is not None:
                mask = frame_mask.bool()
                torch_compilable_check(
                    (mask[:, 1:] >= mask[:, :-1]).all() & mask[:, -1].all(),
                    "frame_mask must be false for padding in front and true from each video's first frame to its "
                    "last, got another pattern",
                )

    def get_placeholder_mask(self, input_ids: Tensor | None, inputs_embeds: Tensor, video_features: Tensor) -> Tensor:
        """Return where the prompt holds video tokens, `(batch, length, 1)`.

        Raises:
            ValueError: if their number is not that of the features.
        """
        if input_ids is None:
            token = torch.full((), self.config.video_token_id, dtype=torch.long, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token)).all(-1)
        else:
            mask = input_ids == self.config.video_token_id
        tokens, features = mask.sum(), video_features.shape[:-1].numel()
        torch_compilable_check(
            tokens == features,
            lambda: f"the prompt must hold one video token for each video feature: {features} wanted, got {tokens}",
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | HMBAModelOutputWithPast:
        """Put the videos' features in the place of the video tokens and run the language model.

        Args:
            input_ids: `(batch, length)`; each video stands in it as one video token for each patch.
            pixel_values_videos: all videos of the batch in the order of the prompts, `(videos, t, channels, height,
                width)`.
            frame_mask: `(videos, t)`, true for real frames.
            mm_encoder_outputs: `{"video": features}` from `get_video_features`, instead of pixels.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given, if pixels and their features
                are both given, or if the prompt's video tokens do not match the videos.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is wanted, got both or neither")
        video = (mm_encoder_outputs or {}).get("video")
        if video is not None and pixel_values_videos is not None:
            raise ValueError("either pixel_values_videos or mm_encoder_outputs is wanted, got both")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values_videos is not None:
            wants_attentions = kwargs.get("output_attentions", self.config.output_attentions)
            video = self.get_video_features(
                pixel_values_videos, frame_mask, return_dict=True, output_attentions=wants_attentions
            )
        features = None
        if video is not None:
            features = video["pooler_output"].to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, features)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        return HMBAModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_hidden_states=features,
            adapter_attentions=None if video is None else getattr(video, "adapter_attentions", None),
        )


class HMBAForConditionalGeneration(HMBAPreTrainedModel, GenerationMixin):
    """H-MBA that answers about driving videos: `HMBAModel` and a language modelling head.

    Source: arXiv:2501.04302.
    """

    _auto_class = "AutoModelForImageTextToText"
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: HMBAConfig):
        super().__init__(config)
        self.model = HMBAModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()
        # A video token in an answer would ask for a video that is not there.
        self.generation_config.suppress_tokens = [config.video_token_id]

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str, video_token: str = "<video>", dtype: Any = "auto", **kwargs: Any
    ) -> "HMBAForConditionalGeneration":
        """Join a pretrained vision tower and a pretrained causal language model by a fresh adapter and projector.

        The adapter starts as the identity. The video token takes the id that adding it to the language model's
        tokenizer gives it; `HMBAProcessor.from_vision_text_pretrained` adds it.

        Args:
            vision: path or Hub id of a vision model, or of a vision-text model whose vision half is taken.
            text: path or Hub id of a causal language model with its tokenizer.
            video_token: placeholder of one visual patch.
            dtype: of the weights; `"auto"` keeps each model's own, and the adapter takes the language model's.
            kwargs: further values of `HMBAConfig`.
        """
        vision_config = AutoConfig.from_pretrained(vision)
        vision_tower = AutoModel.from_pretrained(
            vision, config=getattr(vision_config, "vision_config", vision_config), dtype=dtype
        )
        causal = AutoModelForCausalLM.from_pretrained(text, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(text)
        tokenizer.add_tokens([video_token], special_tokens=True)
        config = HMBAConfig(
            vision_config=vision_tower.config,
            text_config=causal.config,
            video_token_id=tokenizer.get_vocab()[video_token],
            **kwargs,
        )
        with torch.device("meta"):
            model = cls(config)
        model.model.vision_tower, model.model.language_model = vision_tower, causal.base_model
        model.lm_head = causal.get_output_embeddings()
        for fresh in (model.model.temporal_adapter, model.model.multi_modal_projector):
            fresh.to_empty(device=causal.device)
            fresh.apply(model._init_weights)
            for name, parameter in fresh.named_parameters():
                if not name.endswith(tuple(cls._keep_in_fp32_modules_strict)):
                    parameter.data = parameter.data.to(causal.dtype)
        model.tie_weights()
        if config.video_token_id >= config.text_config.vocab_size:
            model.resize_token_embeddings(len(tokenizer))
        generation_config = causal.generation_config
        generation_config.suppress_tokens = [config.video_token_id]
        model.generation_config = generation_config
        return model.eval()

    def get_video_features(
        self, pixel_values_videos: Tensor, frame_mask: Tensor | None = None, **kwargs: Any
    ) -> HMBAVideoFeatures:
        """Encode videos; see `HMBAModel.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, frame_mask, **kwargs)

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | HMBACausalLMOutputWithPast:
        """Predict the next token at each position; arguments as in `HMBAModel.forward`.

        Args:
            labels: `(batch, length)`, -100 where no loss is wanted; shifted inside.
            logits_to_keep: compute logits for this many last positions only; for all when 0.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            frame_mask=frame_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return HMBACausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_hidden_states=outputs.video_hidden_states,
            adapter_attentions=outputs.adapter_attentions,
        )


def _build_adapter(config: HMBAConfig) -> nn.Module:
    """Unpack the config into the adapter's plain keywords."""
    width = config.vision_config.hidden_size
    if config.adapter == "none":
        return CurrentFrameAdapter()
    if config.adapter == "mean":
        return MeanFrameAdapter()
    if config.adapter == "transformer":
        return TransformerAdapter(width, config.num_frames, config.adapter_num_heads)
    mixer = {"state_size": config.state_size, "conv_kernel": config.conv_kernel, "expand": config.expand}
    context = ContextMamba(
        width,
        config.num_frames,
        config.temporal_strides,
        config.branches,
        config.bidirectional_time,
        config.share_mixers,
        mixer,
    )
    query = QueryMamba(
        width,
        context.contexts,
        config.fusion,
        config.adapter_num_heads,
        config.fusion_weights,
        config.latent_mamba,
        mixer,
    )
    return TemporalAdapter(width, context, query, config.gated)
