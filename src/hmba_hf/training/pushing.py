"""A Trainer whose pushes end where those of a checkpoint do."""

import os
import shutil
import tempfile
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils.hub import PushInProgress

from ..hub import CardDetails
from ..hub.cards import card_details
from ..hub.checkpoints import checkpoint_files, commit_checkpoint, upload_checkpoint, write_card
from ..repositories import claim_repository

_PUSHING = "_pushing-"  # copies of checkpoints on their way to the Hub


class PushingTrainer(Trainer):
    """A `Trainer` that pushes as `push_checkpoint` does: private, with the same card, and nothing pickled.

    A repository is public only if `args.hub_private_repo` is false.

    Args:
        card: details for the card of a push.
        args, kwargs: of `Trainer`.
    """

    def __init__(self, *args: Any, card: CardDetails | None = None, **kwargs: Any):
        self.push_in_progress: Any = None
        super().__init__(*args, **kwargs)
        self.card = card or CardDetails()
        self._hub = huggingface_hub.HfApi()

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository of `args.hub_model_id`, private unless `args.hub_private_repo` or `private` is false.

        Raises:
            ValueError: if it exists and is public, or if a push would hold a token or something pickled.
        """
        check_push(self.args, token)
        if not self.is_world_process_zero():
            return
        if private is None:
            private = self.args.hub_private_repo is not False
        name = self.args.hub_model_id or self._run.absolute().name
        self.hub_model_id: Any = claim_repository(name, private=private).repo_id

    def create_model_card(self, **details: Any) -> None:  # type: ignore[override]  # takes transformers' names, too
        """Write the card into the folder of the run.

        Args:
            details: of `CardDetails`, over those of the trainer, or by transformers' names as in `card_details`.
        """
        if self.is_world_process_zero():
            card = replace(self.card, **card_details(details))
            write_card(self._run, self.model, (), card, self.hub_model_id)

    def push_to_hub(  # type: ignore[override]  # a push has a message
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **details: Any,
    ) -> Any:
        """Save model and processor in the folder of the run and upload them as `push_checkpoint` does.

        Args:
            commit_message, blocking, revision, private: as in `Trainer`.
            token: none; see `init_hf_repo`.
            details: as in `create_model_card`.

        Returns:
            The commit, or its `Future` if not `blocking`; `None` in all processes but one.
        """
        card = replace(self.card, **card_details(details))
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None or token is not None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        arguments = (self._run, self.model, self.hub_model_id, (), card)
        options = {"message": commit_message, "revision": revision or self.args.hub_revision}
        if blocking:
            return upload_checkpoint(*arguments, **options)  # type: ignore[arg-type]  # the two options are texts
        return self._hub.run_as_future(upload_checkpoint, *arguments, **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint during training, unless the one before is still on its way."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        is_busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if is_busy and not self.args.hub_always_push:
            return
        if not is_busy:
            self._finish_current_push()
            for left in self._run.glob(f"{_PUSHING}*"):  # by a run that was killed
                shutil.rmtree(left, ignore_errors=True)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        place = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        # Of its own, because the checkpoint may be deleted before all of it is there.
        copy = Path(tempfile.mkdtemp(prefix=_PUSHING, dir=self._run))
        for name in checkpoint_files(Path(checkpoint_folder)):
            _link_or_copy(Path(checkpoint_folder) / name, copy / name)
        write_card(copy, self.model, (), self.card, self.hub_model_id)
        message = f"Training in progress, {place}"
        job = self._hub.run_as_future(_commit_and_remove, copy, self.hub_model_id, message, self.args.hub_revision)
        if self.push_in_progress is None:
            self.push_in_progress = PushInProgress([])  # type: ignore[arg-type]  # typed for one job, holds a list
        self.push_in_progress.jobs.append(job)

    def _finish_current_push(self) -> None:
        """Wait for pushes on their way, and warn of those that failed, which does not end training."""
        if self.push_in_progress is None:
            return
        super()._finish_current_push()
        for job in self.push_in_progress.jobs:
            if not job.cancelled() and (error := job.exception()) is not None:
                warnings.warn(f"a push during training failed: {error}", stacklevel=2)
        self.push_in_progress = None

    @property
    def _run(self) -> Path:
        return Path(str(self.args.output_dir))


def check_push(args: Any, token: str | None = None) -> None:
    """Raise a `ValueError` for options of `TrainingArguments` with which a push would hold what it must not."""
    if token or args.hub_token:
        raise ValueError("a push takes the token of `hf auth login` or HF_TOKEN, never one among the arguments")
    if args.hub_strategy not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
        raise ValueError(
            "hub_strategy must be 'end' or 'every_save', because the state of a run is pickled, got "
            f"{str(args.hub_strategy.value)!r}"
        )


def _commit_and_remove(folder: Path, repo_id: str, message: str, revision: str | None) -> None:
    try:
        commit_checkpoint(folder, repo_id, message, revision=revision)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file of weights a second name, and copy what is small and may be written again under its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".safetensors":
        with suppress(OSError):  # of a file system without links
            return os.link(source, target)
    shutil.copyfile(source, target)
