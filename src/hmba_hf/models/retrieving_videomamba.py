"""VideoMamba beside a BERT: videos and texts in one space, and pairs of them that are read together."""

from typing import Any

from .pretrained_videomamba import VideoMambaPreTrainedModel  # first: it refuses an old transformers

# isort: split
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertAttention
from transformers.utils.generic import can_return_tuple

from .configuration_videomamba import VideoMambaConfig, VideoMambaRetrievalConfig
from .layers_alignment import alignment_distance
from .layers_attention import differentiable_attention
from .layers_conditions import require, require_text_mask
from .layers_contrast import contrastive_loss, gathered, hard_negatives, similarities
from .loading_checkpoints import (
    check_holds_a_model,
    file_options,
    refuse_lacking,
    refuse_pickles,
    say_what_is_tied,
)
from .loading_options import PLACES, refuse_options_of_join, split_options
from .loading_quantised import refuse_quantised
from .loading_weights import choose_dtype
from .modeling_videomamba import VideoMambaForPreTraining, visible_features, visible_tokens
from .outputs_videomamba import VideoMambaRetrievalOutput, VideoMambaTextFeatures, VideoMambaVideoFeatures

# Bounds of the temperature that the released code keeps to.
_COLDEST = 0.001
_WARMEST = 0.5


class VideoPooler(nn.Module):
    """A video's features: its class token with the mean of its patches, normed.

    Args:
        hidden_size: width of the tokens.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=1e-5)

    def forward(self, cls_token: Tensor, patches: Tensor) -> Tensor:
        """Pool patches, `(b, t, p, d)`, frame by frame, `(b, t, d)`, each with the class token, `(b, d)`."""
        return self.norm(cls_token[:, None] + patches.mean(dim=2))


class VideoMambaForVideoTextRetrieval(VideoMambaPreTrainedModel):
    """A VideoMamba and a BERT whose first layers read texts alone, and whose last ones also attend to a video.

    Args:
        config: of the model.

    Source: Li et al. 2024, arXiv:2403.06977, section 4.3; `UMT_VIDEOMAMBA` of OpenGVLab/VideoMamba.
    Differs: pairs of a batch that do not match are drawn from the process's own samples, as there, while the contrast
        is with those of all processes.
    """

    config: VideoMambaRetrievalConfig  # type: ignore[assignment]  # made of two, so no VideoMambaConfig
    model_types = ("videomamba_retrieval",)
    _auto_class = "AutoModel"
    base_model_prefix = ""
    input_modalities = ["video", "text"]
    # A text layer is kept on one device; with a video its parts are called one by one, so each is spread by itself.
    _no_split_modules = [
        "VideoEmbeddings",
        "MambaBlock",
        "BertEmbeddings",
        "BertLayer",
        "BertAttention",
        "BertIntermediate",
        "BertOutput",
    ]
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: VideoMambaRetrievalConfig):
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        self.vision_model = VideoMambaForPreTraining(vision)
        self.pooler = VideoPooler(vision.hidden_size)
        self.text_model = BertForMaskedLM(text)
        self.cross_attentions = nn.ModuleList()
        for _ in range(config.num_fusion_layers):
            self.cross_attentions.append(_cross_attention(text, vision.hidden_size))
        self.vision_projection = nn.Linear(vision.hidden_size, config.projection_size)
        self.text_projection = nn.Linear(text.hidden_size, config.projection_size)
        self.matching_head = nn.Linear(text.hidden_size, 2)
        self.logit_temperature = nn.Parameter(torch.tensor(config.temperature))
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: Any, text: Any, num_fusion_layers: int = 3, projection_size: int = 512, **options: Any
    ) -> "VideoMambaForVideoTextRetrieval":
        """Join a VideoMamba and a BERT; what is between them is new.

        Args:
            vision: folder or Hub id of a VideoMamba that masked pre-training made.
            text: folder or Hub id of a BERT with its masked language head.
            num_fusion_layers, projection_size: as in `VideoMambaRetrievalConfig`.
            options: `dtype`, float32 when absent, `attn_implementation`, and options of both halves'
                `from_pretrained`, such as `token`, or with `vision_` or `text_` before their name for one of them.

        Raises:
            ValueError: if a half lacks weights, is quantised or holds low-rank updates, or if an option is none.
            OSError: if weights are missing, or not in safetensors.
        """
        vision_options, text_options, values = split_options(options)
        dtype = choose_dtype(values.pop("dtype", None), values)
        if dtype is None:
            dtype = torch.float32
        attention = values.pop("attn_implementation", None)
        without_effect = {*PLACES, "gguf_file"} & (vision_options.keys() | text_options.keys())
        refuse_options_of_join({*values, *without_effect}, "dtype or those of the halves' files")
        refuse_pickles(vision_options.get("use_safetensors"))
        refuse_pickles(text_options.get("use_safetensors"))
        halves = ((vision, VideoMambaConfig, vision_options), (text, BertConfig, text_options))
        for half, config_class, of_half in halves:
            check_holds_a_model(half, file_options(of_half))
            refuse_quantised(half, config_class.from_pretrained(half, **file_options(of_half)), of_half)
            of_half |= {"dtype": dtype, "output_loading_info": True, "use_safetensors": True}
        vision_model, seen = VideoMambaForPreTraining.from_pretrained(vision, **vision_options)
        refuse_lacking(vision, seen["missing_keys"])
        loaded: Any = BertForMaskedLM.from_pretrained(text, **text_options)
        text_model, read = loaded
        refuse_lacking(text, read["missing_keys"])
        say_what_is_tied(text_model)
        config = VideoMambaRetrievalConfig(
            vision_config=vision_model.config,
            text_config=text_model.config,
            num_fusion_layers=num_fusion_layers,
            projection_size=projection_size,
        )
        model = cls(config)
        stay_wide = tuple(model._keep_in_fp32_modules_strict)  # transformers reads this name when it loads a model
        for name, parameter in model.named_parameters():
            if not name.endswith(stay_wide):
                parameter.data = parameter.data.to(text_model.dtype)
        model.vision_model.load_state_dict(vision_model.state_dict())
        model.text_model.load_state_dict(text_model.state_dict())
        if attention is not None:
            model.set_attn_implementation(attention)
        return model

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of the text's tokens."""
        return self.text_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the layer that names hidden tokens, whose weights are that table."""
        return self.text_model.get_output_embeddings()

    @property
    def temperature(self) -> Tensor:
        """The learned temperature within its bounds."""
        return self.logit_temperature.clamp(_COLDEST, _WARMEST)

    def get_video_features(
        self,
        pixel_values_videos: Tensor,
        bool_masked_pos: Tensor | None = None,
        per_frame: bool = True,
        interpolate_pos_encoding: bool = False,
    ) -> VideoMambaVideoFeatures:
        """Encode clips or pictures.

        Args:
            pixel_values_videos: `(b, t, channels, height, width)`, or pictures, `(b, channels, height, width)`.
            bool_masked_pos: as in `VideoMambaModel`; what it leaves is pooled as a whole.
            per_frame: pool each frame by itself.
            interpolate_pos_encoding: as in `VideoMambaModel`.

        Raises:
            ValueError: as `VideoMambaModel`.
        """
        options = {"interpolate_pos_encoding": interpolate_pos_encoding, "return_dict": True}
        aligned_features = None
        if bool_masked_pos is None:
            last = self.vision_model.videomamba(pixel_values_videos, **options).last_hidden_state
        else:
            outputs = self.vision_model(pixel_values_videos, bool_masked_pos, output_hidden_states=True, **options)
            last = outputs.hidden_states[-1]
            aligned_features = outputs.aligned_features
        cls_token = last[:, 0]
        patches = last[:, 1:]
        num_times = 1
        if per_frame and bool_masked_pos is None and pixel_values_videos.ndim == 5:
            num_times = pixel_values_videos.shape[1] // self.config.vision_config.tubelet_size
        pooled = self.pooler(cls_token, patches.unflatten(1, (num_times, -1)))
        return VideoMambaVideoFeatures(
            last_hidden_state=patches,
            pooler_output=pooled,
            video_embeds=self.vision_projection(pooled),
            aligned_features=aligned_features,
        )

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> VideoMambaTextFeatures:
        """Encode texts by the layers that see no video.

        Args:
            input_ids: `(b, l)`.
            attention_mask: `(b, l)`, true for tokens; all when absent.

        Raises:
            ValueError: if there are too many tokens, unknown ones or none, or if a mask hides all of a text.
        """
        _check_tokens(input_ids, attention_mask, self.config.text_config)
        bert = self.text_model.bert
        hidden_states = bert.embeddings(input_ids=input_ids)
        mask = self._mask(hidden_states, attention_mask)
        with differentiable_attention():
            for layer in bert.encoder.layer[: self.config.num_text_layers]:
                hidden_states = _first(layer(hidden_states, mask))
        return VideoMambaTextFeatures(
            last_hidden_state=hidden_states, text_embeds=self.text_projection(hidden_states[:, 0])
        )

    def fuse(self, text_states: Tensor, patches: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Read texts together with their videos.

        Args:
            text_states: of `get_text_features`, `(b, l, hidden_size)`.
            patches: of `get_video_features`, `(b, visible, d)`.
            attention_mask: of the texts, `(b, l)`.

        Returns:
            `(b, l, hidden_size)`.
        """
        hidden_states = text_states
        mask = self._mask(hidden_states, attention_mask)
        layers: Any = self.text_model.bert.encoder.layer[self.config.num_text_layers :]
        with differentiable_attention():
            for layer, cross_attention in zip(layers, self.cross_attentions, strict=True):
                hidden_states = _first(layer.attention(hidden_states, mask))
                hidden_states = _first(cross_attention(hidden_states, encoder_hidden_states=patches))
                hidden_states = layer.feed_forward_chunk(hidden_states)
        return hidden_states

    def match(self, text_states: Tensor, patches: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return how well texts fit their videos, as logits of "other" and of "fits", `(b, 2)`; see `fuse`."""
        return self.matching_head(self.fuse(text_states, patches, attention_mask)[:, 0])

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        teacher_features: Tensor | None = None,
        pair_ids: Tensor | None = None,
        masked_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_loss: bool = False,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> VideoMambaRetrievalOutput:
        """Compare videos with texts, and compute the losses that the arguments allow.

        Args:
            pixel_values_videos, bool_masked_pos, interpolate_pos_encoding: as in `get_video_features`.
            input_ids, attention_mask: of the texts, one for each video, `(b, l)`.
            teacher_features: as in `VideoMambaForPreTraining`, for the loss of alignment.
            pair_ids: equal for pairs that match one another, `(b,)`; all differ when absent.
            masked_input_ids: the texts with some tokens hidden, `(b, l)`.
            labels: the hidden tokens, `(b, l)`, and -100 elsewhere, for the loss of masked language.
            return_loss: compute the losses of contrast and of matching.

        Raises:
            ValueError: as `VideoMambaModel` and `VideoMambaForPreTraining`, if there are not as many texts as videos,
                if an argument has another shape, or if only one of `masked_input_ids` and `labels` is given.
        """
        _check_texts(pixel_values_videos.shape[0], input_ids, attention_mask, masked_input_ids, labels)
        _check_shape("pair_ids", pair_ids, (input_ids.shape[0],))
        video: Any = self.get_video_features(
            pixel_values_videos, bool_masked_pos, interpolate_pos_encoding=interpolate_pos_encoding
        )
        text: Any = self.get_text_features(input_ids, attention_mask)
        own = similarities(video.video_embeds, text.text_embeds) / self.temperature
        output = VideoMambaRetrievalOutput(
            logits_per_video=own,
            logits_per_text=own.T,
            video_embeds=video.video_embeds,
            text_embeds=text.text_embeds,
        )
        losses = {}
        if return_loss:
            if pair_ids is None:
                pair_ids = self._own_ids(input_ids)
            losses["contrastive_loss"] = self._contrast(video.video_embeds, text.text_embeds, pair_ids)
            losses["matching_loss"] = self._matching(
                video.last_hidden_state, text.last_hidden_state, attention_mask, own, pair_ids
            )
        if masked_input_ids is not None and labels is not None:
            logits = self._guess(masked_input_ids, video.last_hidden_state, attention_mask)
            losses["masked_language_loss"] = _guessing_loss(logits, labels)
        if teacher_features is not None:
            losses["alignment_loss"] = self._alignment(video, teacher_features, bool_masked_pos)
        for name, loss in losses.items():
            output[name] = loss
        if losses:
            output["loss"] = sum(losses.values())
        return output

    def _mask(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Any:
        return create_bidirectional_mask(
            config=self.text_model.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )

    def _guess(self, masked_input_ids: Tensor, patches: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the logits of all tokens of texts with hidden ones, read together with their videos."""
        states: Any = self.get_text_features(masked_input_ids, attention_mask).last_hidden_state
        return self.text_model.cls(self.fuse(states, patches, attention_mask))

    def _own_ids(self, input_ids: Tensor) -> Tensor:
        """Number the pairs, differently in each process."""
        count = len(input_ids)
        first = 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            first = torch.distributed.get_rank() * count
        return torch.arange(first, first + count, device=input_ids.device)

    def _contrast(self, video_embeds: Tensor, text_embeds: Tensor, pair_ids: Tensor) -> Tensor:
        scaled = similarities(gathered(video_embeds), gathered(text_embeds)) / self.temperature
        everyone = gathered(pair_ids)
        return contrastive_loss(scaled, everyone[:, None] == everyone[None])

    def _matching(
        self,
        patches: Tensor,
        states: Tensor,
        attention_mask: Tensor | None,
        scaled: Tensor,
        pair_ids: Tensor,
    ) -> Tensor:
        """Return the loss over the pairs, each text with another video, and each video with another text."""
        is_match = pair_ids[:, None] == pair_ids[None]
        # A pair that all others equal is learned from as it is.
        rows = (~is_match).any(dim=1).nonzero()[:, 0]
        other_texts = hard_negatives(scaled[rows], is_match[rows])
        other_videos = hard_negatives(scaled.T[rows], is_match[rows])
        own = torch.arange(len(states), device=states.device)
        texts = torch.cat([own, rows, other_texts])
        videos = torch.cat([own, other_videos, rows])
        mask = None if attention_mask is None else attention_mask[texts]
        logits = self.match(states[texts], patches[videos], mask)
        fits = (torch.arange(len(texts), device=states.device) < len(own)).long()
        return nn.functional.cross_entropy(logits.float(), fits)

    def _alignment(
        self, video: VideoMambaVideoFeatures, teacher_features: Tensor, bool_masked_pos: Tensor | None
    ) -> Tensor:
        if bool_masked_pos is None:
            raise ValueError("bool_masked_pos must say which patches teacher_features are compared of, got None")
        features: Any = video.aligned_features
        num_patches = bool_masked_pos.shape[-1]
        tokens = visible_tokens(bool_masked_pos, (features.shape[1], num_patches))
        wanted = visible_features(features, teacher_features, tokens, 1 + num_patches)
        return alignment_distance(features, wanted, self.config.vision_config.alignment_loss)


def _cross_attention(text_config: Any, width: int) -> BertAttention:
    """Build attention of a text's tokens to tokens of some width."""
    attention = BertAttention(text_config, is_cross_attention=True)
    attention.self.key = nn.Linear(width, text_config.hidden_size)
    attention.self.value = nn.Linear(width, text_config.hidden_size)
    return attention


def _check_shape(name: str, given: Tensor | None, wanted: tuple[int, ...]) -> None:
    if given is not None and tuple(given.shape) != wanted:
        raise ValueError(f"{name} must be {wanted}, as input_ids are, got {tuple(given.shape)}")


def _check_texts(
    num_videos: int,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    masked_input_ids: Tensor | None,
    labels: Tensor | None,
) -> None:
    """Raise a `ValueError` unless there is a text for each video, and all of one shape that is about its tokens."""
    if input_ids.shape[0] != num_videos:
        raise ValueError(f"input_ids must have a text for each of {num_videos} videos, got {input_ids.shape[0]}")
    if (masked_input_ids is None) != (labels is None):
        raise ValueError("masked_input_ids and labels must be given together, got one of them")
    of_tokens = {"attention_mask": attention_mask, "masked_input_ids": masked_input_ids, "labels": labels}
    for name, given in of_tokens.items():
        _check_shape(name, given, tuple(input_ids.shape))


def _check_tokens(input_ids: Tensor, attention_mask: Tensor | None, text_config: Any) -> None:
    """Raise a `ValueError` unless a BERT can read its texts, each of which has a token that counts."""
    longest = text_config.max_position_embeddings
    if input_ids.ndim != 2 or not 1 <= input_ids.shape[1] <= longest:
        raise ValueError(f"input_ids must be (batch, tokens) with 1 to {longest} tokens, got {tuple(input_ids.shape)}")
    size = text_config.vocab_size
    is_known = (input_ids >= 0) & (input_ids < size)
    require(is_known.all(), f"input_ids must be of the {size} tokens of the text model, got others")
    if attention_mask is not None:
        require_text_mask(attention_mask)
        is_read = attention_mask.bool().any(dim=1)
        require(is_read.all(), "attention_mask must leave a token of each text, got all hidden")


def _guessing_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy over labels other than -100; zero where there is none."""
    total = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
    return total / (labels != -100).sum().clamp(min=1)


def _first(output: Any) -> Tensor:
    """Return the states of a layer that, depending on the version of transformers, also returns others."""
    return output[0] if isinstance(output, tuple) else output
