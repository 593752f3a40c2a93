"""A run from its first step to what it leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.bad_samples import BadSamples
from ..data.encoded_samples import EncodedStream
from ..messages import logger
from .checkpoints import last_whole_checkpoint
from .history import save_history
from .trainer import ResumableTrainer


def train_to_end(
    trainer: ResumableTrainer,
    checkpoint: Path | None,
    counts: Mapping[str, int],
    options: Mapping[str, Any],
    bad: BadSamples,
) -> bool:
    """Train, and leave the model and the history of the run in its folder.

    Args:
        trainer: of the run.
        checkpoint: to resume from, as `checkpoint_to_resume` chooses it.
        counts: parameters that learn, by part.
        options: of the run, for its history.
        bad: what has been skipped, for its history.

    Returns:
        Whether the run has ended; a run that SIGTERM has stopped leaves a checkpoint alone.
    """
    run = Path(str(trainer.args.output_dir))
    if trainer.is_world_process_zero():
        dataset: Any = trainer.train_dataset
        clips = "a streamed dataset" if isinstance(dataset, EncodedStream) else f"{len(dataset)} clips"
        logger.info(f"{clips}; parameters that learn: {dict(counts)}")
        logger.info("a new run" if checkpoint is None else f"resuming from {checkpoint}")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.has_stopped:
        if trainer.is_world_process_zero():
            kept = last_whole_checkpoint(run)
            rest = "the same command begins anew"
            if kept is not None:
                rest = f"{kept} is whole, and the same command resumes from it"
            logger.info(f"stopped by SIGTERM: {rest}")
        return False
    trainer.save_model(_internal_call=True)  # all of it is here before a push, which may fail
    if trainer.is_world_process_zero():
        save_history(trainer, dict(options), bad)
    return True
