"""A run from its first step to its history, and the picture of its card."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.bad_samples import READ_ERRORS, BadSamples
from ..data.encoded_samples import EncodedStream
from ..data.loading import DRAWN
from ..data.samples import Sample
from ..families import family_of, find_task
from ..messages import logger
from .arguments import ResumableArguments
from .checkpoints import checkpoint_to_resume, last_whole_checkpoint
from .history import save_history
from .pushing import check_push
from .trainer import ResumableTrainer


def begin(args: ResumableArguments, wanted: Mapping[str, Any], on_error: str) -> tuple[Path, Path | None, BadSamples]:
    """Find where a run goes on, before anything is loaded.

    Args:
        args: of the run.
        wanted: its recipe.
        on_error: policy for samples that cannot be read.

    Returns:
        The folder of the run, the checkpoint to resume from, if there is one, and the policy with its record, which a
        new run clears.

    Raises:
        ValueError: if the folder holds checkpoints of another recipe, or if a push at the end would be refused.
    """
    if args.push_to_hub:
        check_push(args)
    run = Path(str(args.output_dir))
    checkpoint = checkpoint_to_resume(run, wanted, args.resume_from_checkpoint)
    bad = BadSamples(on_error, run / "bad_samples.jsonl")
    if checkpoint is None and args.process_index == 0:
        bad.forget()
    return run, checkpoint, bad


def train_to_end(
    trainer: ResumableTrainer,
    checkpoint: Path | None,
    counts: Mapping[str, int],
    options: Mapping[str, Any],
    bad: BadSamples,
) -> bool:
    """Train, and save the model and the history of the run in its folder.

    Args:
        trainer: of the run.
        checkpoint: to resume from, as `checkpoint_to_resume` chooses it.
        counts: parameters that learn, by part.
        options: of the run, for its history.
        bad: what has been skipped, for its history.

    Returns:
        Whether the run has ended; a run that SIGTERM stops saves only a checkpoint.
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
            rest = "the same command starts from the beginning"
            if kept is not None:
                rest = f"{kept} is whole, and the same command resumes from it"
            logger.info(f"stopped by SIGTERM: {rest}")
        return False
    trainer.save_model(_internal_call=True)  # all of it is here before a push, which may fail
    if trainer.is_world_process_zero():
        save_history(trainer, dict(options), bad)
    return True


def draw_example(trainer: ResumableTrainer, datasets: Sequence[str], load: Callable[[str], Sample]) -> Any:
    """Let the model predict about a clip that it has not learned from, and its task draw that for the card.

    Args:
        trainer: with `predict`.
        datasets: names; of the first one whose clips a card may show, one is drawn.
        load: reads a clip of a dataset.

    Returns:
        A picture; `None` where the task draws none, where the clip cannot be read, or where others could see one that
        is not drawn.
    """
    model: Any = trainer.model
    processor: Any = trainer.processing_class
    family = family_of(model)
    task = find_task(family.task)
    if task.draw is None:
        return None
    is_private = trainer.args.hub_private_repo is not False
    shown = [name for name in datasets if is_private or name in DRAWN]
    if not shown:
        logger.info("no picture for the card: everybody could see it")
        return None
    try:
        sample = load(shown[0])
        task.encode([sample], processor)
    except READ_ERRORS as error:  # the run is over, and its model is worth more than a picture
        logger.info(f"no picture for the card: {error}")
        return None
    ((prediction,), _) = trainer.predict_together([sample])
    return task.draw(sample, prediction, processor, family.name)
