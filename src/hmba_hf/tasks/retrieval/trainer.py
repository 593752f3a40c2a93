"""A Trainer for models of videos and texts."""

from collections.abc import Mapping
from typing import Any

import torch

from ...models.layers_video_masks import Masking
from ...training.clip_teacher import ClipTeacher
from ...training.trainer import ResumableTrainer


class RetrievalTrainer(ResumableTrainer):
    """A `ResumableTrainer` of contrast, matching and masked language, and of a teacher's features if there is one.

    With a teacher a part of each clip is hidden. Masks depend on the seeds of the clips alone, so a resumed run
    repeats them.

    Args:
        teacher: of the clips.
        masking: of the clips, with a teacher.
        args, kwargs: of `ResumableTrainer`.

    Raises:
        ValueError: if the model could not learn from this teacher.
    """

    def __init__(self, *args: Any, teacher: ClipTeacher | None = None, masking: Masking | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        model: Any = self.model
        self._vision: Any = model.config.vision_config
        self.teacher = None
        if teacher is not None:
            teacher.check_fits(self._vision)
            self.teacher = teacher.to(self.args.device)
        self.masking = masking or Masking()

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the sum of the losses of a batch."""
        return super().compute_loss(model, self.prepared(inputs), *args, **kwargs)

    def prepared(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Return the inputs of the model for a batch of pairs with their seeds."""
        prepared: dict[str, Any] = {**inputs, "return_loss": True}
        seeds = prepared.pop("mask_seed")
        if self.teacher is None:
            return prepared
        pixels = prepared["pixel_values_videos"]
        with torch.no_grad(), self.accelerator.autocast():
            told = self.teacher(pixels)
        height, width = self._vision.frame_size
        patch_height, patch_width = self._vision.patch_shape
        grid = (height // patch_height, width // patch_width)
        prepared["bool_masked_pos"] = self.masking.draw(seeds, pixels.shape[1], grid, told.attention)
        prepared["teacher_features"] = told.features
        return prepared

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        """Return the loss of a batch of an evaluation."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None
