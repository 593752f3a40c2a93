"""A Trainer for masked pre-training against a frozen teacher."""

from collections.abc import Mapping
from typing import Any

import torch

from ...models.layers_video_masks import Masking
from ...training.clip_teacher import ClipTeacher, TeacherOutput
from ...training.teacher_cache import TeacherCache
from ...training.trainer import ResumableTrainer


class PretrainingTrainer(ResumableTrainer):
    """A `ResumableTrainer` whose model learns a teacher's features of what a mask leaves visible.

    Masks depend on the seeds of the clips alone, so a resumed run repeats them. An evaluation tells the distance from
    the teacher as `eval_loss`.

    Args:
        teacher: of the clips.
        masking: of the clips.
        cache: of what the teacher tells; clips then come with a `clip_digest`.
        args, kwargs: of `ResumableTrainer`.

    Raises:
        ValueError: if the model could not learn from this teacher.
    """

    def __init__(
        self, *args: Any, teacher: ClipTeacher, masking: Masking, cache: TeacherCache | None = None, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        student: Any = self.model
        self._config = student.config
        teacher.check_fits(self._config)
        self.teacher = teacher.to(self.args.device)
        self.masking = masking
        self.cache = cache

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the distance from the teacher's features of the visible patches."""
        return super().compute_loss(model, self.masked(inputs), *args, **kwargs)

    def masked(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the inputs of the model for a batch of clips with their seeds: what to hide, and what to learn."""
        pixels = inputs["pixel_values_videos"]
        told = self._look(pixels, inputs.get("clip_digest"))
        height, width = self._config.frame_size
        patch_height, patch_width = self._config.patch_shape
        grid = (height // patch_height, width // patch_width)
        mask = self.masking.draw(inputs["mask_seed"], pixels.shape[1], grid, told.attention)
        return {"pixel_values_videos": pixels, "bool_masked_pos": mask, "teacher_features": told.features}

    def _look(self, pixels: torch.Tensor, digests: torch.Tensor | None) -> TeacherOutput:
        with torch.no_grad(), self.accelerator.autocast():
            if self.cache is None or digests is None:
                return self.teacher(pixels)
            names = [bytes(row).hex() for row in digests.tolist()]
            return self.cache.look(self.teacher, pixels, names)

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        """Return the loss of a batch of an evaluation, which has no labels."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None
