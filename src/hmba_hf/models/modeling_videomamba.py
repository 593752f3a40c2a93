"""VideoMamba: a bidirectional Mamba over the patches of a clip, its classifiers, and its masked pre-training."""

from typing import Any

from .pretrained_videomamba import VideoMambaPreTrainedModel  # first: it refuses an old transformers

# isort: split
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .configuration_videomamba import VideoMambaConfig
from .layers_alignment import AlignmentHead, DistillationHead, alignment_distance
from .layers_conditions import require, whole
from .layers_mamba import DropPath, MambaBlock, ResidualNorm, add_residual
from .layers_scan_orders import (
    SCANS,
    BidirectionalMambaMixer,
    Reordering,
    orders_of_layers,
    temporal_order,
)
from .layers_video_embeddings import VideoEmbeddings, sinusoidal_positions
from .outputs_videomamba import VideoMambaClassifierOutput, VideoMambaPreTrainingOutput

IGNORED_LABEL = -100  # of samples that have none, as in torch
PROBLEMS_OF_VALUES = ("regression", "multi_label_classification")


class VideoMambaEncoder(nn.Module):
    """The blocks of a VideoMamba.

    Args:
        config: of the model.
    """

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        depth = config.num_hidden_layers
        orders = orders_of_layers(config.scan_type, depth)
        self.layers = nn.ModuleList()
        for order in orders:
            mixer = BidirectionalMambaMixer(
                config.hidden_size, config.state_size, config.conv_kernel, config.expand, order
            )
            norm = ResidualNorm(config.hidden_size, config.layer_norm_eps)
            self.layers.append(MambaBlock(norm, mixer))
        self.drop_path = DropPath()
        self.set_drop_path(config.drop_path_rate)
        self.needs_temporal_order = any(scan.temporal for order in orders for scan in SCANS[order])

    def set_drop_path(self, rate: float) -> None:
        """Drop the last block's output for this share of the samples in training, and earlier ones' for less."""
        depth = len(self.layers)
        # The output of block `i` is dropped where block `i + 1` adds it.
        later: Any = self.layers[1:]
        for number, layer in enumerate(later):
            layer.drop_path.rate = rate * number / max(depth - 1, 1)
        self.drop_path.rate = rate

    def forward(
        self, hidden_states: Tensor, temporal: Reordering | None = None, keeps_residuals: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all blocks.

        Args:
            hidden_states: the embeddings, `(b, l, d)`.
            temporal: how to order the tokens by place first.
            keeps_residuals: return all residuals, which would otherwise be freed.

        Returns:
            The residual with the last block's output, and if they are kept the residual that entered each block, in
            float32 or wider, each `(b, l, d)`.
        """
        residual = None
        residuals = []
        for layer in self.layers:
            hidden_states, residual = layer(hidden_states, residual, temporal=temporal)
            if keeps_residuals:
                residuals.append(residual)
        return add_residual(self.drop_path(hidden_states), residual), residuals


class VideoMambaModel(VideoMambaPreTrainedModel):
    """The tokens of a clip or of a picture, encoded.

    Args:
        config: of the model.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: VideoMambaConfig):
        super().__init__(config)
        self.embeddings = VideoEmbeddings(
            config.hidden_size,
            config.num_channels,
            config.frame_size,
            config.patch_shape,
            config.num_frames,
            config.tubelet_size,
        )
        self.encoder = VideoMambaEncoder(config)
        self.norm = ResidualNorm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the projection of patches."""
        return self.embeddings.patch_embeddings

    def resize_clips(self, num_frames: int | None = None, image_size: int | list[int] | None = None) -> None:
        """Take clips of another length or size from now on; the tables of times and places are interpolated.

        Args:
            num_frames: frames of a clip; as many as before when absent.
            image_size: side of a frame in pixels, or height and width; as before when absent.

        Raises:
            ValueError: if a value is no multiple of what a patch covers.
        """
        changed = {"num_frames": num_frames, "image_size": image_size}
        given = {name: value for name, value in changed.items() if value is not None}
        wanted = type(self.config).from_dict({**self.config.to_dict(), **given})  # checks the values
        self.embeddings.resize(wanted.num_frames, wanted.frame_size)
        self.config.num_frames = wanted.num_frames
        self.config.image_size = wanted.image_size

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode clips or pictures.

        Args:
            pixel_values_videos: `(b, t, channels, height, width)`; or pictures.
            pixel_values: pictures, `(b, channels, height, width)`, instead. A picture is a clip of one frame.
            bool_masked_pos: `(b, t / tubelet_size * p)`, true for patches that are left out, as many in each clip.
            interpolate_pos_encoding: take clips of any length and size, and interpolate the tables of places and
                times for them.
            output_hidden_states: return them.

        Returns:
            `last_hidden_state`, `(b, l, d)`: the class token, then the visible patches of one frame after the other,
            normed. `pooler_output`, `(b, d)`: the class token. `hidden_states`: the residual that enters each block,
            in float32 or wider, and the last one, normed.

        Raises:
            ValueError: if shapes do not fit, if pixels are not finite, or if a mask hides all patches of a clip.
        """
        clips = as_clips(pixel_values_videos, pixel_values)
        hidden_states = self.embeddings(clips, interpolate_pos_encoding)
        tokens = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        num_times = clips.shape[1] // self.config.tubelet_size
        num_patches = (hidden_states.shape[1] - 1) // num_times
        if bool_masked_pos is not None:
            tokens = visible_tokens(bool_masked_pos, (clips.shape[0], num_times * num_patches))
            hidden_states = hidden_states.take_along_dim(tokens[..., None], dim=1)
        temporal = None
        if self.encoder.needs_temporal_order:
            temporal = temporal_order(num_times, num_patches, tokens)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        residual, residuals = self.encoder(hidden_states, temporal, keeps_residuals=output_hidden_states)
        normed = self.norm(residual).to(hidden_states.dtype)
        return BaseModelOutputWithPooling(
            last_hidden_state=normed,
            pooler_output=normed[:, 0],
            hidden_states=(*residuals, normed) if output_hidden_states else None,
        )


class VideoMambaForVideoClassification(VideoMambaPreTrainedModel):
    """A VideoMamba with a linear classifier on its class token.

    With `distillation_size` it has a head that learns the features of a smaller teacher, too; see section 3.3 of the
    paper.

    Args:
        config: of the model.
    """

    _auto_class = "AutoModelForVideoClassification"
    # A classifier loads from a student: the head of its distillation is no part of the result.
    _keys_to_ignore_on_load_unexpected = [r"^distillation_head\."]

    def __init__(self, config: VideoMambaConfig):
        super().__init__(config)
        self.videomamba = VideoMambaModel(config)
        num_labels: Any = config.num_labels
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        self.distillation_head = None
        if config.distillation_size is not None:
            self.distillation_head = DistillationHead(
                config.hidden_size, config.distillation_size, config.layer_norm_eps
            )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        teacher_features: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> VideoMambaClassifierOutput:
        """Classify clips or pictures.

        Args:
            pixel_values_videos, pixel_values, interpolate_pos_encoding, output_hidden_states: as in
                `VideoMambaModel`.
            labels: classes, `(b,)`; probabilities of classes, `(b, num_labels)`, as mixtures of samples have them; or
                values, for `config.problem_type` `"regression"`.
            teacher_features: the teacher's `last_hidden_state`, `(b, l, distillation_size)`.

        Raises:
            ValueError: as `VideoMambaModel`, or if labels or the teacher's features do not fit.
        """
        outputs = self.videomamba(
            pixel_values_videos,
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = self._label_loss(labels, logits)
        features = None
        if self.distillation_head is not None:
            features = self.distillation_head(outputs.last_hidden_state)
        if teacher_features is not None:
            distance = self._distance(features, teacher_features)
            loss = distance if loss is None else loss + distance
        return VideoMambaClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, distillation_features=features
        )

    def _label_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        problem = self.config.problem_type
        check_labels(labels, logits, problem)
        is_mixed = labels.ndim == 2 and labels.is_floating_point() and logits.shape[1] > 1
        if is_mixed and problem in (None, "single_label_classification"):
            require((labels >= 0).all(), "labels must be probabilities of classes, got negative ones or NaN")
            return nn.functional.cross_entropy(logits.float(), labels.float())
        are_values = logits.shape[1] == 1 or problem in PROBLEMS_OF_VALUES
        labels = labels.to(logits.dtype if are_values else torch.long)
        return self.loss_function(labels, logits, self.config)

    def _distance(self, features: Tensor | None, teacher_features: Tensor) -> Tensor:
        if features is None:
            raise ValueError("distillation_size must be the width of teacher_features, got None")
        if features.shape != teacher_features.shape:
            raise ValueError(f"teacher_features must be {tuple(features.shape)}, got {tuple(teacher_features.shape)}")
        return alignment_distance(features, teacher_features)


class VideoMambaForImageClassification(VideoMambaForVideoClassification):
    """A VideoMamba of one frame with a linear classifier on its class token, for pictures.

    Args:
        config: of the model, with `num_frames=1`.
    """

    _auto_class = "AutoModelForImageClassification"
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        teacher_features: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> VideoMambaClassifierOutput:
        """Classify pictures, `(b, channels, height, width)`; arguments as in `VideoMambaForVideoClassification`."""
        return super().forward(
            pixel_values=pixel_values,
            labels=labels,
            teacher_features=teacher_features,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )


class VideoMambaForPreTraining(VideoMambaPreTrainedModel):
    """A VideoMamba that learns a teacher's features of the patches that a mask leaves visible.

    Args:
        config: of the model.

    Source: Li et al. 2024, arXiv:2403.06977, section 3.4; `PretrainVideoMamba` of OpenGVLab/VideoMamba.
    """

    _auto_class = "AutoModelForPreTraining"

    def __init__(self, config: VideoMambaConfig):
        super().__init__(config)
        self.videomamba = VideoMambaModel(config)
        self.alignment_heads = nn.ModuleList()
        for _ in range(config.num_alignment_layers):
            self.alignment_heads.append(AlignmentHead(config.hidden_size, config.alignment_size))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        teacher_features: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> VideoMambaPreTrainingOutput:
        """Align the features of visible patches with a teacher's.

        Args:
            pixel_values_videos, bool_masked_pos, interpolate_pos_encoding, output_hidden_states: as in
                `VideoMambaModel`.
            teacher_features: of all tokens or of the visible ones, `(k, b, l, alignment_size)`.

        Raises:
            ValueError: as `VideoMambaModel`, or if the teacher's features do not fit.
        """
        outputs = self.videomamba(
            pixel_values_videos,
            bool_masked_pos=bool_masked_pos,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_hidden_states=True,
            return_dict=True,
        )
        last = outputs.last_hidden_state
        tokens = torch.arange(last.shape[1], device=last.device).expand(last.shape[0], -1)
        if bool_masked_pos is not None:
            tokens = visible_tokens(bool_masked_pos, (last.shape[0], bool_masked_pos.shape[-1]))
        features = self._align(outputs.hidden_states, tokens)
        loss = None
        if teacher_features is not None:
            num_tokens = last.shape[1]
            if bool_masked_pos is not None:
                num_tokens = 1 + bool_masked_pos.shape[1]
            wanted = visible_features(features, teacher_features, tokens, num_tokens)
            loss = alignment_distance(features, wanted, self.config.alignment_loss)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = outputs.hidden_states if output_hidden_states else None
        return VideoMambaPreTrainingOutput(loss=loss, aligned_features=features, hidden_states=hidden_states)

    def _align(self, hidden_states: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        """Return the features of the aligned layers, `(k, b, visible, alignment_size)`.

        Args:
            hidden_states: of the base model.
            tokens: numbers of the visible ones, `(b, visible)`.
        """
        dtype = hidden_states[-1].dtype
        table = sinusoidal_positions(int(tokens.max()) + 1, self.config.hidden_size, tokens.device)
        positions = table[0, tokens]
        aligned = []
        for head, layer in zip(self.alignment_heads, self._aligned_layers(), strict=True):
            states = self._output_of(layer, hidden_states)
            aligned.append(head((states + positions).to(dtype)))
        return torch.stack(aligned)

    def _aligned_layers(self) -> list[int]:
        """Return the layers to align, counted from 0, in ascending order."""
        last = self.config.num_hidden_layers - 1
        steps = reversed(range(self.config.num_alignment_layers))
        return [last - step * self.config.alignment_interval for step in steps]

    def _output_of(self, layer: int, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """Return the states of a layer that are aligned."""
        is_last = layer == self.config.num_hidden_layers - 1
        if is_last and self.config.align_last_output:
            return hidden_states[-1]
        if is_last:
            return hidden_states[layer]
        return self.videomamba.norm(hidden_states[layer + 1])


def as_clips(pixel_values_videos: Tensor | None, pixel_values: Tensor | None) -> Tensor:
    """Return clips, `(b, t, channels, height, width)`, of clips or of pictures.

    Raises:
        ValueError: unless one of them is given, a tensor with 4 or 5 dimensions.
    """
    given = [pixels for pixels in (pixel_values_videos, pixel_values) if pixels is not None]
    if len(given) != 1:
        raise ValueError(f"one of pixel_values_videos and pixel_values must be given, got {len(given)}")
    pixels = given[0]
    if not isinstance(pixels, Tensor):
        raise ValueError(f"pixels must be a tensor, as a processor makes it, got {type(pixels).__name__}")
    if pixels.ndim == 4:
        return pixels[:, None]
    if pixels.ndim != 5:
        raise ValueError(f"pixels must be (batch, frames, channels, height, width), got {tuple(pixels.shape)}")
    return pixels


def visible_tokens(bool_masked_pos: Tensor, wanted: tuple[int, int]) -> Tensor:
    """Return the numbers of the tokens that a mask leaves, `(b, visible)`; the class token, 0, is among them.

    Args:
        bool_masked_pos: true for patches that are left out.
        wanted: its shape, `(b, patches)`.

    Raises:
        ValueError: if it is no such tensor, if a clip has no visible patch, or if clips have different numbers.
    """
    if not isinstance(bool_masked_pos, Tensor):
        raise ValueError(f"bool_masked_pos must be a tensor of {wanted} in bool, got {type(bool_masked_pos).__name__}")
    shape = tuple(bool_masked_pos.shape)
    if shape != wanted or bool_masked_pos.dtype != torch.bool:
        raise ValueError(f"bool_masked_pos must be {wanted} in bool, got {shape} in {bool_masked_pos.dtype}")
    is_visible = nn.functional.pad(~bool_masked_pos, (1, 0), value=True)
    counts = whole(is_visible.sum(dim=1)).flatten().tolist()
    if min(counts) != max(counts):
        raise ValueError(f"bool_masked_pos must hide as many patches in each clip, got {counts} visible tokens")
    if counts[0] == 1:
        raise ValueError("bool_masked_pos must leave a patch visible in each clip, got all hidden")
    visible_first = is_visible.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return visible_first[:, : counts[0]]


def visible_features(features: Tensor, teacher_features: Tensor, tokens: Tensor, num_tokens: int) -> Tensor:
    """Return a teacher's features of the tokens that a student sees.

    Args:
        features: the student's, `(k, b, visible, c)`.
        teacher_features: of all tokens or of the visible ones, `(k, b, l, c)`.
        tokens: numbers of the visible ones, `(b, visible)`.
        num_tokens: how many the clip has, with those that are hidden.

    Raises:
        ValueError: if they have another shape.
    """
    layers, batch, visible, channels = features.shape
    shape = tuple(teacher_features.shape)
    if len(shape) == 4 and shape[2] == num_tokens:
        teacher_features = teacher_features.take_along_dim(tokens[None, ..., None], dim=2)
    if teacher_features.shape != features.shape:
        wanted = f"({layers}, {batch}, {visible} visible tokens or all {num_tokens}, {channels})"
        raise ValueError(f"teacher_features must be {wanted}, got {shape}")
    return teacher_features


def check_labels(labels: Tensor, logits: Tensor, problem_type: str | None) -> None:
    """Raise a `ValueError` unless labels fit logits.

    Args:
        labels: classes, `(b,)`, or a value for each logit, `(b, num_labels)`.
        logits: `(b, num_labels)`.
        problem_type: of the configuration.
    """
    batch, num_labels = logits.shape
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a tensor, got {type(labels).__name__}")
    shape = tuple(labels.shape)
    if num_labels == 1 or labels.is_floating_point() or problem_type in PROBLEMS_OF_VALUES:
        require(torch.isfinite(labels).all(), "labels must be finite, got NaN or infinity")
        if shape != (batch, num_labels) and (num_labels > 1 or shape != (batch,)):
            raise ValueError(f"labels must be {(batch, num_labels)} for values, got {shape}")
        return
    if labels.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers of classes, got {labels.dtype}")
    if shape not in ((batch,), (batch, 1)):
        raise ValueError(f"labels must be {(batch,)} for classes, got {shape}")
    is_known = ((labels >= 0) & (labels < num_labels)) | (labels == IGNORED_LABEL)
    require(is_known.all(), f"labels must be classes from 0 to {num_labels - 1}, or {IGNORED_LABEL}, got others")
