"""A frozen CLIP vision tower whose features of single frames a model of clips learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from ..digests import digest_weights
from ..models.loading_checkpoints import load_vision_config, load_with_report, refuse_lacking


class TeacherOutput(NamedTuple):
    """What a teacher tells about clips.

    Attributes:
        features: of each layer, of length one, `(k, b, 1 + t * p, c)`: the class token's mean over the frames, then
            the patches of one frame after the other.
        attention: of the class token to the patches in the last block, the mean over the heads, `(b, t * p)`. It
            sums to a little less than one in each frame, since the class token attends to itself, too.
    """

    features: Tensor
    attention: Tensor


class ClipTeacher:
    """A frozen CLIP vision tower that looks at clips frame by frame.

        features = normalize(visual_projection(residual after block))

    No norm is applied behind the last block. The pixels are those of the student, resized where sizes differ.

    Args:
        tower: with its projection.
        num_layers: whose features are told, counted from the last, `k`.
        interval: distance between these layers.

    Raises:
        ValueError: if the tower has too few layers.

    Source: Li et al. 2023, arXiv:2303.16058, section 3.2; `clip_teacher` of OpenGVLab/VideoMamba.
    """

    def __init__(self, tower: CLIPVisionModelWithProjection, num_layers: int = 1, interval: int = 1):
        depth = tower.config.num_hidden_layers
        if min(num_layers, interval) < 1 or (num_layers - 1) * interval >= depth:
            raise ValueError(
                f"num_layers and interval must be at least 1 and stay within the teacher's {depth} layers, got "
                f"{num_layers} and {interval}"
            )
        self.tower = tower.eval().requires_grad_(False)
        self.layers = [depth - 1 - step * interval for step in reversed(range(num_layers))]

    @classmethod
    def from_pretrained(
        cls, checkpoint: str, num_layers: int = 1, interval: int = 1, revision: str | None = None
    ) -> "ClipTeacher":
        """Load the vision tower of a CLIP, a folder or a Hub id, in float32.

        Raises:
            ValueError: if it is no CLIP, or if a weight is missing.
            OSError: if weights are not there, or not in safetensors.
        """
        try:
            whole, config = load_vision_config(checkpoint, revision=revision)
        except OSError as error:
            raise FileNotFoundError(
                f"teacher must be a folder or a Hub id of a CLIP, got {checkpoint}: {error}"
            ) from error
        if config.model_type != "clip_vision_model":
            raise ValueError(f"teacher must be a CLIP with a vision tower, got {whole.model_type!r} in {checkpoint}")
        options: dict[str, Any] = {"dtype": torch.float32, "revision": revision, "use_safetensors": True}
        tower, lacking = load_with_report(CLIPVisionModelWithProjection, checkpoint, **options)
        refuse_lacking(checkpoint, lacking)
        return cls(tower, num_layers, interval)

    @property
    def feature_size(self) -> int:
        """Channels of the features, `c`."""
        return self.tower.config.projection_dim

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches that it sees in a frame."""
        side = self.tower.config.image_size // self.tower.config.patch_size
        return side, side

    def check_fits(self, config: Any) -> None:
        """Raise a `ValueError` if a student of this configuration could not learn from it."""
        height, width = config.frame_size
        patch_height, patch_width = config.patch_shape
        wanted = {
            "patches of a frame": ((height // patch_height, width // patch_width), self.grid),
            "num_alignment_layers": (config.num_alignment_layers, len(self.layers)),
            "alignment_size": (config.alignment_size, self.feature_size),
            "num_channels": (config.num_channels, self.tower.config.num_channels),
        }
        for name, (student, teacher) in wanted.items():
            if student != teacher:
                raise ValueError(f"{name} must be the teacher's, {teacher}, got {student} of the student")
        if config.tubelet_size != 1:
            raise ValueError(
                f"tubelet_size must be 1, since the teacher sees single frames, got {config.tubelet_size}"
            )

    def key(self, dtype: torch.dtype) -> dict[str, str]:
        """Describe all that its features depend on but the pixels.

        Args:
            dtype: in which it computes.
        """
        config = self.tower.config
        return {
            "teacher": f"{type(self.tower).__name__} {digest_weights(self.tower, dtype)}",
            "activation": config.hidden_act,
            "heads": str(config.num_attention_heads),
            "eps": str(config.layer_norm_eps),
            "layers": str(self.layers),
            "dtype": str(dtype).removeprefix("torch."),
        }

    def to(self, device: torch.device) -> "ClipTeacher":
        """Move it to a device."""
        self.tower.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pixel_values_videos: Tensor) -> TeacherOutput:
        """Look at clips, `(b, t, channels, height, width)`."""
        batch, num_frames = pixel_values_videos.shape[:2]
        seen, last_input = self._residuals(self._resized(pixel_values_videos.flatten(0, 1)))
        features = []
        for residual in seen:
            projected = self.tower.visual_projection(residual).unflatten(0, (batch, num_frames))
            cls_token = projected[:, :, 0].mean(dim=1, keepdim=True)  # (b, 1, c)
            tokens = torch.cat([cls_token, projected[:, :, 1:].flatten(1, 2)], dim=1)
            features.append(nn.functional.normalize(tokens.float(), dim=-1).to(projected.dtype))
        attention = self._attention(last_input).unflatten(0, (batch, num_frames)).flatten(1)
        return TeacherOutput(torch.stack(features), attention)

    def _resized(self, frames: Tensor) -> Tensor:
        """Resize frames, `(b * t, channels, height, width)`, to the size of the tower."""
        side = self.tower.config.image_size
        frames = frames.to(self.tower.dtype)
        if tuple(frames.shape[-2:]) == (side, side):
            return frames
        return nn.functional.interpolate(frames, size=(side, side), mode="bicubic", align_corners=False)

    def _residuals(self, frames: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run the tower; return what leaves the chosen blocks, and what enters the last, `(b * t, 1 + p, d)` each."""
        blocks: Any = self.tower.vision_model.encoder.layers
        outputs: dict[int, Tensor] = {}
        inputs: list[Tensor] = []
        hooks = [blocks[-1].register_forward_pre_hook(lambda block, given: inputs.append(given[0]))]
        for number in self.layers:
            hooks.append(blocks[number].register_forward_hook(_keeping(outputs, number)))
        try:
            self.tower.vision_model(frames)
        finally:
            for hook in hooks:
                hook.remove()
        return [outputs[number] for number in self.layers], inputs[0]

    def _attention(self, residual: Tensor) -> Tensor:
        """Return how the class token attends to the patches in the last block, `(b * t, p)`, from what enters it."""
        block: Any = self.tower.vision_model.encoder.layers[-1]
        mixer = block.self_attn
        heads = (mixer.num_heads, -1)
        normed = block.layer_norm1(residual)
        query = mixer.q_proj(normed[:, 0]).unflatten(-1, heads)  # (b * t, heads, channels)
        keys = mixer.k_proj(normed).unflatten(-1, heads)
        scores = torch.einsum("fhc,fnhc->fhn", query, keys) * mixer.scale
        return scores.float().softmax(dim=-1).mean(dim=1)[:, 1:]


def _keeping(outputs: dict[int, Tensor], number: int) -> Callable[..., None]:
    """Return a hook that keeps the output of a block."""

    def keep(block: nn.Module, given: Any, output: Any) -> None:
        outputs[number] = output[0] if isinstance(output, tuple) else output

    return keep
