"""MambaVL: a clip and a question for each head, fused by two Mambas that share their decays, and classified."""

import inspect
from typing import Any

from .pretrained_mambavl import MambaVLPreTrainedModel  # first: it refuses an old transformers

# isort: split
import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .configuration_mambavl import (
    MambaVLConfig,
    MambaVLFeaturesConfig,
    MambaVLMotionformerConfig,
    MambaVLVisionConfig,
    clip_length,
    width_of,
)
from .encoding_mambavl import MambaVLMotionformerModel, MambaVLVisionModel
from .joining_mambavl import drop_unread, join_pretrained
from .layers_attention import differentiable_attention
from .layers_conditions import require, require_text_mask
from .layers_question_fusion import (
    MambaFusion,
    MlpFusion,
    TextProjection,
    TransformerFusion,
    answer_loss,
    masked_mean,
    real_first,
)
from .outputs_mambavl import MambaVLClassifierOutput, MambaVLModelOutput

IGNORED_LABEL = -100  # of samples that have none, as in torch


class MambaVLModel(MambaVLPreTrainedModel):
    """The features of a clip that is asked a question for each head.

    Args:
        config: of the model.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: MambaVLConfig):
        super().__init__(config)
        config.check()  # `from_pretrained(path, fusion=...)` sets values after the config's own check
        width: Any = config.hidden_size
        self.vision_model = build_vision_model(config.vision_config)
        self.text_model = drop_unread(AutoModel.from_config(config.text_config))
        self.vision_projection = None
        if width_of(config.vision_config) != width:
            self.vision_projection = nn.Linear(width_of(config.vision_config), width)
        self.text_projection = TextProjection(width_of(config.text_config), width)
        self.fusion = build_fusion(config)
        if config.fusion == "mamba" and config.share_A:
            self._tied_weights_keys = {"fusion.text_mixer.A_log": "fusion.video_mixer.A_log"}
        self.post_init()

    def train(self, mode: bool = True) -> "MambaVLModel":
        """Set the mode of all parts, but of a frozen text model, whose dropout would be noise that nothing learns."""
        super().train(mode)
        learns = any(parameter.requires_grad for parameter in self.text_model.parameters())
        self.text_model.train(mode and learns)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of the text's tokens."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of the text's tokens."""
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        video_features: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        boxes: Tensor | None = None,
        **kwargs: Any,
    ) -> MambaVLModelOutput:
        """Fuse clips with the questions of their heads.

        Args:
            pixel_values_videos: `(b, t, channels, height, width)`.
            input_ids: one question for each head, `(b, heads, l)`; absent for clips that are asked nothing.
            attention_mask: true for tokens that are read, `(b, heads, l)`; all of them when absent. A question without
                any adds nothing.
            video_features: tokens of the clips, `(b, n, channels of the video model)`, instead of pixels.
            output_hidden_states, output_attentions: return those of the video model, if it has any.
            boxes: of objects, for a `MambaVLMotionformerModel`; see there.

        Raises:
            ValueError: if shapes do not fit, if both pixels and features are given or neither, or if they are not
                finite.
        """
        if (pixel_values_videos is None) == (video_features is None):
            raise ValueError("one of pixel_values_videos and video_features must be given, got both or neither")
        seen = BaseModelOutputWithPooling(last_hidden_state=video_features)
        if pixel_values_videos is not None:
            wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            for name, value in wanted.items():
                if value is None:
                    wanted[name] = bool(getattr(self.config, name))
            seen = self.get_video_features(pixel_values_videos, boxes=boxes, return_dict=True, **wanted)
        elif boxes is not None:
            raise ValueError("boxes must come with pixel_values_videos, got them with video_features")
        tokens: Any = seen.last_hidden_state
        video = self._check_features(tokens)
        text, mask = self.encode_texts(input_ids, attention_mask, video.shape[0])
        with differentiable_attention():
            mixed, features = self.fusion(video, text, mask)
        return MambaVLModelOutput(
            last_hidden_state=mixed,
            head_features=features.expand(-1, len(self.config.heads), -1),
            hidden_states=seen.hidden_states,
            attentions=seen.attentions,
        )

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: Tensor, boxes: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode clips alone.

        A model of pictures reads each frame, and the tokens are those of one frame after the other.

        Args:
            pixel_values_videos: `(b, t, channels, height, width)`.
            boxes: as in `forward`.
            kwargs: of the video model, such as `output_hidden_states` and `output_attentions`.

        Returns:
            `last_hidden_state`, `(b, n, channels of the video model)`, and `pooler_output`, its mean; `hidden_states`
            and `attentions` as the video model returns them, if it has any.

        Raises:
            ValueError: if clips have another number of dimensions, or values that are not finite, if there is no video
                model, or if it does not read the boxes that are given.
        """
        if self.vision_model is None:
            raise ValueError(
                "pixel_values_videos must be absent for a model without a video model, which reads video_features, "
                "got them"
            )
        shape = tuple(pixel_values_videos.shape)
        if len(shape) != 5 or 0 in shape:
            raise ValueError(f"pixel_values_videos must be (batch, frames, channels, height, width), got {shape}")
        require(pixel_values_videos.isfinite().all(), "pixel_values_videos must be finite, got NaN or infinity")
        pixels = pixel_values_videos.to(self.vision_model.dtype)
        reads_clips = clip_length(self.vision_model.config) is not None
        options = {**kwargs, "return_dict": True}
        taken = inspect.signature(self.vision_model.forward).parameters
        if boxes is not None:
            if "boxes" not in taken:
                raise ValueError(
                    f"boxes must be absent for a {type(self.vision_model).__name__}, which reads none, got them"
                )
            options["boxes"] = boxes
        if "skip_predictor" in taken:  # of V-JEPA 2
            options["skip_predictor"] = True
        options[self.vision_model.main_input_name] = pixels if reads_clips else pixels.flatten(0, 1)
        with differentiable_attention():
            outputs = self.vision_model(**options)
        tokens = outputs.last_hidden_state
        if not reads_clips:
            tokens = tokens.unflatten(0, pixels.shape[:2]).flatten(1, 2)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=tokens.mean(dim=1),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def encode_texts(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, num_clips: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the projected tokens of texts, `(b, heads, l, hidden_size)`, and which of them are read, these first.

        Args:
            input_ids, attention_mask: as in `forward`.
            num_clips: `b`.

        Raises:
            ValueError: if shapes do not fit, or if a mask holds anything but 0 and 1.
        """
        if input_ids is None:
            if attention_mask is not None:
                raise ValueError("attention_mask must come with input_ids, got it alone")
            return None, None
        wanted = (num_clips, len(self.config.heads))
        if input_ids.ndim != 3 or tuple(input_ids.shape[:2]) != wanted or input_ids.shape[2] == 0:
            raise ValueError(
                f"input_ids must be (batch, heads, tokens) of {wanted} questions, one for each of "
                f"{list(self.config.heads)}, got {tuple(input_ids.shape)}"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask must be {tuple(input_ids.shape)} as input_ids, got {tuple(attention_mask.shape)}"
            )
        require_text_mask(attention_mask)
        is_read = attention_mask.bool()
        if self.config.ignore_text_mask:  # a question that is masked whole stays none
            is_read = is_read.any(dim=-1, keepdim=True).expand_as(is_read)
        attended = None
        if self.config.text_features == "contextual":
            attended = self._attended(is_read).flatten(0, 1)
        ids = input_ids.flatten(0, 1)
        with differentiable_attention():
            tokens = self.text_model(input_ids=ids, attention_mask=attended, return_dict=True).last_hidden_state
        text, is_read = real_first(self.text_projection(tokens.to(self._dtype)), is_read.flatten(0, 1))
        return text.unflatten(0, wanted), is_read.unflatten(0, wanted)

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of the fusion and of what leads to it."""
        last: Any = self.text_projection.layers[-1]
        return last.bias.dtype  # its weight may be quantised, but never its bias

    @staticmethod
    def _attended(is_read: Tensor) -> Tensor:
        """Return the mask for the text model, whose attention must have something to read in every text."""
        first = torch.zeros_like(is_read)
        first[..., 0] = ~is_read.any(dim=-1)
        return (is_read | first).long()

    def _check_features(self, video_features: Tensor) -> Tensor:
        """Check the tokens of clips, and bring them to the width of the fusion."""
        width = width_of(self.config.vision_config)
        shape = tuple(video_features.shape)
        if len(shape) != 3 or shape[2] != width or shape[1] == 0:
            raise ValueError(f"video_features must be (batch, tokens, {width}), got {shape}")
        require(video_features.isfinite().all(), "video_features must be finite, got NaN or infinity")
        video = video_features.to(self._dtype)
        return video if self.vision_projection is None else self.vision_projection(video)


class MambaVLForVideoClassification(MambaVLPreTrainedModel):
    """A MambaVL with a linear classifier for each head.

    Args:
        config: of the model.

    Source: arXiv:2409.11513; Dongzhikang/MambaVL.
    Differs: returns logits in evaluation, too, where the released code returns probabilities.
    """

    _auto_class = "AutoModelForVideoClassification"

    def __init__(self, config: MambaVLConfig):
        super().__init__(config)
        self.mambavl = MambaVLModel(config)
        self.dropout = nn.Dropout(config.head_dropout)
        width: Any = config.hidden_size
        self.classifiers = nn.ModuleDict()
        for head, size in config.head_sizes.items():
            if hasattr(self.classifiers, head):
                raise ValueError(f"a head must have a name that modules of torch do not use, got {head!r}")
            self.classifiers[head] = nn.Linear(width, size)
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(cls, vision: Any, text: Any, **options: Any) -> "MambaVLForVideoClassification":
        """Join a video model and a text model; what is between them is new.

        Args:
            vision: folder or Hub id of a model of videos or pictures.
            text: folder or Hub id of a text model.
            options: values of `MambaVLConfig`, `dtype`, float32 when absent, `attn_implementation`, and options of
                both halves' `from_pretrained`, such as `token`, or with `vision_` or `text_` before the name for one.

        Raises:
            ValueError: if a half lacks weights, or if an option is none.
            OSError: if weights are missing, or not in safetensors.
        """
        return join_pretrained(cls, vision, text, options)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        video_features: Tensor | None = None,
        labels: Tensor | None = None,
        answer_input_ids: Tensor | None = None,
        answer_attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        boxes: Tensor | None = None,
        **kwargs: Any,
    ) -> MambaVLClassifierOutput:
        """Classify clips by what their heads ask.

        Args:
            pixel_values_videos, input_ids, attention_mask, video_features, output_hidden_states, output_attentions,
                boxes: as in `MambaVLModel`.
            labels: classes, `(b, heads)`, -100 where one is not known, or `(b,)` of a model of one head; or
                probabilities of classes, `(b, classes of all heads)`, the heads side by side, as mixtures of samples
                have them, zeros where a head's are not known.
            answer_input_ids, answer_attention_mask: the right answers as texts, `(b, heads, l)`, for
                `config.answer_loss_weight`.

        Raises:
            ValueError: as `MambaVLModel`, or if labels or answers do not fit.
        """
        outputs = self.mambavl(
            pixel_values_videos,
            input_ids,
            attention_mask,
            video_features=video_features,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            boxes=boxes,
            return_dict=True,
        )
        features = self.dropout(outputs.head_features)
        logits = {}
        for number, (head, classifier) in enumerate(self.classifiers.items()):
            logits[head] = classifier(features[:, number])
        loss = None
        if labels is not None:
            check_labels(labels, self.config.head_sizes, features.shape[0])
            loss = sum_of_losses(labels, logits)
        of_answers = None
        if answer_input_ids is None and answer_attention_mask is not None:
            raise ValueError("answer_attention_mask must come with answer_input_ids, got it alone")
        if answer_input_ids is not None:
            of_answers = self._answer_loss(outputs.head_features, answer_input_ids, answer_attention_mask, labels)
            weighted = self.config.answer_loss_weight * of_answers
            loss = weighted if loss is None else loss + weighted
        return MambaVLClassifierOutput(
            loss=loss,
            logits=joint_logits(list(logits.values())) if self.config.num_labels else None,
            head_logits=logits,
            head_features=outputs.head_features,
            answer_loss=of_answers,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _answer_loss(
        self, features: Tensor, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None
    ) -> Tensor:
        """Return the loss of the answers, the mean over the heads.

        Args:
            features: of the asked clips, `(b, heads, d)`.
            input_ids, attention_mask: of the answers, `(b, heads, l)`.
            labels: as in `forward`.
        """
        if labels is None:
            raise ValueError("labels must come with answer_input_ids, to know which answers are the same, got none")
        answers, is_read = self.mambavl.encode_texts(input_ids, attention_mask, features.shape[0])
        assert answers is not None and is_read is not None
        pooled = masked_mean(answers.flatten(0, 1), is_read.flatten(0, 1)).unflatten(0, features.shape[:2])
        classes = hard_labels(labels, self.config.head_sizes)
        losses = []
        for number in range(features.shape[1]):
            losses.append(
                answer_loss(features[:, number], pooled[:, number], classes[:, number], self.config.answer_temperature)
            )
        return torch.stack(losses).mean()


def build_vision_model(config: Any) -> Any:
    """Build the video model of a configuration; `None` for one that stands for features."""
    # Not by class: transformers may load code that came with a checkpoint twice, and with it the classes.
    if config.model_type == MambaVLFeaturesConfig.model_type:
        return None
    if config.model_type == MambaVLVisionConfig.model_type:
        return MambaVLVisionModel(config)
    if config.model_type == MambaVLMotionformerConfig.model_type:
        return MambaVLMotionformerModel(config)
    return drop_unread(AutoModel.from_config(config))


def build_fusion(config: MambaVLConfig) -> nn.Module:
    """Build the fusion that a configuration names."""
    width: Any = config.hidden_size
    if config.fusion == "mamba":
        return MambaFusion(width, config.state_size, config.conv_kernel, config.expand, config.share_A)
    if config.fusion == "transformer":
        return TransformerFusion(width, config.fusion_layers, config.fusion_heads, config.fusion_dropout)
    return MlpFusion(width, config.fusion_dropout)


def joint_logits(logits: list[Tensor]) -> Tensor:
    """Return the logits of the joint classes: of the only head, or the log probability of each combination.

    Args:
        logits: of each head, `(b, classes)`.
    """
    if len(logits) == 1:
        return logits[0]
    joint = torch.zeros_like(logits[0][:, :1], dtype=torch.float32)
    for of_head in logits:
        joint = (joint[..., None] + of_head.float().log_softmax(dim=-1)[:, None]).flatten(1)
    return joint


def check_labels(labels: Tensor, sizes: dict[str, int], num_clips: int) -> None:
    """Raise a `ValueError` unless labels fit the heads.

    Args:
        labels: as in `MambaVLForVideoClassification.forward`.
        sizes: number of classes of each head.
        num_clips: `b`.
    """
    shape = tuple(labels.shape)
    if labels.dtype == torch.bool or shape[:1] != (num_clips,):
        raise ValueError(f"labels must be numbers for a batch of {num_clips}, got {shape} in {labels.dtype}")
    if labels.is_floating_point():
        if len(shape) != 2 or shape[1] != sum(sizes.values()):
            raise ValueError(
                f"labels must be (batch, {sum(sizes.values())}) for probabilities of classes, got {shape}"
            )
        return
    if shape[1:] != (len(sizes),) and not (len(shape) == 1 and len(sizes) == 1):
        raise ValueError(f"labels must be (batch, {len(sizes)}), one for each of {list(sizes)}, got {shape}")
    classes = labels.reshape(labels.shape[0], -1)
    for number, (head, size) in enumerate(sizes.items()):
        of_head = classes[:, number]
        is_known = ((of_head >= 0) & (of_head < size)) | (of_head == IGNORED_LABEL)
        require(
            is_known.all(), f"labels of head {head!r} must be from 0 to {size - 1}, or {IGNORED_LABEL}, got others"
        )


def hard_labels(labels: Tensor, sizes: dict[str, int]) -> Tensor:
    """Return the class of each head, `(b, heads)`, below zero where it is not known; the likeliest of a mixture.

    Args:
        labels, sizes: as in `check_labels`.
    """
    if not labels.is_floating_point():
        return labels.reshape(labels.shape[0], -1)
    classes = []
    for of_head in labels.split(list(sizes.values()), dim=1):
        weight, number = of_head.max(dim=1)
        classes.append(number.masked_fill(weight <= 0, IGNORED_LABEL))
    return torch.stack(classes, dim=1)


def sum_of_losses(labels: Tensor, logits: dict[str, Tensor]) -> Tensor:
    """Return the sum of the heads' cross entropies, each the mean over the samples whose class is known.

    Args:
        labels: as in `check_labels`.
        logits: of each head by its name, `(b, classes)`.
    """
    sizes = [of_head.shape[1] for of_head in logits.values()]
    if labels.is_floating_point():
        wanted = labels.split(sizes, dim=1)
    else:
        wanted = labels.reshape(labels.shape[0], -1).unbind(dim=1)
    total = None
    for of_head, answer in zip(logits.values(), wanted, strict=True):
        is_known = answer.sum(dim=1) > 0 if answer.ndim == 2 else answer != IGNORED_LABEL
        losses = nn.functional.cross_entropy(of_head.float(), answer, reduction="none")
        loss = losses.sum() / is_known.sum().clamp(min=1)
        total = loss if total is None else total + loss
    assert total is not None
    return total
