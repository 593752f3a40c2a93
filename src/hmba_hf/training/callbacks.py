"""What happens between the steps of a run: it logs and evaluates before it saves, and it stops when SIGTERM comes."""

import atexit
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from ..data.encoded_samples import EncodedSamples

# Seconds in which children may end by SIGTERM when this process ends.
GRACE = 1.0


class ExactResume(TrainerCallback):
    """What a run needs, besides its checkpoint, to resume as if nothing had stopped it.

    Args:
        find_run: returns the folder that holds the checkpoints, that of the trial in a search.
        make_up: evaluates at the step that a run resumes from, where SIGTERM came before its evaluation was done.

    Attributes:
        order: seeded anew for each epoch, for a sampler that would draw from the random numbers of everything else.
    """

    def __init__(self, find_run: Callable[[], Path], make_up: Callable[[], None]) -> None:
        self._find_run = find_run
        self._make_up = make_up
        self._evaluated_at = -1
        self.order = torch.Generator()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a run that resumes from its last step, and find its best checkpoint wherever it is now."""
        control.should_training_stop = state.global_step >= state.max_steps
        if _owes_evaluation(state) and args.eval_strategy != IntervalStrategy.NO:
            self._make_up()
            self._evaluated_at = state.global_step
        best = self._find_run() / f"checkpoint-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let an epoch that is begun again draw its samples in the same order, and each of them as before."""
        seed = args.seed if args.data_seed is None else args.data_seed
        epoch = int(state.epoch or 0)
        self.order.manual_seed(seed + epoch)
        dataset = getattr(kwargs.get("train_dataloader"), "dataset", None)
        if isinstance(dataset, EncodedSamples):
            dataset.set_epoch(epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log and evaluate before a checkpoint is saved: what has not been done by then is in none."""
        is_last = state.epoch.is_integer() or state.global_step >= state.max_steps
        is_evaluated = args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= state.epoch
        if control.should_save and is_last and is_evaluated:
            control.should_evaluate = True
            self._evaluated_at = state.global_step
        self._log(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate unless the last step of the epoch has done it."""
        if self._evaluated_at == state.global_step:
            control.should_evaluate = False
        self._log(control)

    @staticmethod
    def _log(control: Any) -> None:
        control.should_log = control.should_log or control.should_save or control.should_evaluate


def _owes_evaluation(state: Any) -> bool:
    """Whether the checkpoint that a run resumes from was saved before an evaluation that was due."""
    if state.global_step == 0:
        return False
    control = state.stateful_callbacks.get("TrainerControl", {})
    return bool(control.get("args", {}).get("should_evaluate", False))


class EvaluationStopped(Exception):
    """Ends an evaluation in which SIGTERM has come."""


class SignalledStop(TrainerCallback):
    """Ends a run by a checkpoint once SIGTERM has come, which clusters send seconds or minutes before they kill.

    The current step is finished, logged and saved. An evaluation that is due or has begun is left to the resumed run,
    which begins with it and equals a run that was never stopped. A save during which the signal comes is the last one.
    All processes stop after the same step.

    Differs: the callback of transformers waits three seconds, saves in the middle of a step, with random numbers that
    its second half has not seen, and lets each process save when its own signal comes.

    Attributes:
        is_agreed: whether all processes know that the run is to stop.
        has_stopped: whether the run has ended by such a checkpoint.
    """

    def __init__(self, accelerator: Callable[[], Accelerator]) -> None:
        self._accelerator = accelerator  # a search makes a new one for each trial
        self._is_listening = False
        self._is_wanted = False
        self.is_agreed = False
        self.has_stopped = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGTERM instead of dying from it, for as long as it is open.

        Raises:
            ValueError: outside of the main thread, which alone is told of signals.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(
                "enable_jit_checkpoint must be false outside of the main thread, which alone is told of signals, got "
                f"true in the thread {threading.current_thread().name!r}"
            )
        self._is_listening = True
        self._is_wanted = False
        self.is_agreed = False
        self.has_stopped = False
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            self._is_listening = False
            self.is_agreed = False
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)

    def _note(self, number: int, frame: Any) -> None:
        self._is_wanted = True

    def agree(self) -> bool:
        """Whether any process has been told to stop: all of them ask at the same places, and get one answer."""
        if self._is_listening and not self.is_agreed:
            accelerator = self._accelerator()
            if self._is_wanted:
                accelerator.set_trigger()
            self.is_agreed = accelerator.check_trigger()
        return self.is_agreed

    def check_evaluation(self) -> None:
        """Raise `EvaluationStopped` if any process has been told to stop."""
        if self.agree():
            raise EvaluationStopped

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give up an evaluation within a training: a batch more may be too much."""
        self.check_evaluation()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save after this step if any process has been told to stop."""
        if self.agree():
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop once the checkpoint is there."""
        if self.agree():
            control.should_training_stop = True
            self.has_stopped = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do nothing more at an end of the epoch that is none, or that is saved already."""
        if self.has_stopped:
            control.should_log = False
            control.should_evaluate = False
            control.should_save = False


def spared_by_signals(prepare: Callable[[int], None] | None) -> Callable[[int], None]:
    """Prepare a worker of a data loader, and let it outlive SIGTERM, which clusters send to all processes of a job.

    It does not outlive this process, which ends the workers that are left after an error.

    Args:
        prepare: what else a worker does when it starts, with its number.
    """
    _end_children_at_exit()
    return partial(_ignore_signals, prepare)


@cache
def _end_children_at_exit() -> None:
    """Let this process end: Python would send SIGTERM to its workers and wait for ever."""
    atexit.register(_end_children)


def _end_children() -> None:
    children = [child for child in multiprocessing.active_children() if child.daemon]
    if children:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise an error for each worker that is killed
    for child in children:
        child.terminate()
    deadline = time.monotonic() + GRACE
    for child in children:
        child.join(max(deadline - time.monotonic(), 0))
        if child.is_alive():
            child.kill()


def _ignore_signals(prepare: Callable[[int], None] | None, worker: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if prepare is not None:
        prepare(worker)
