"""A Trainer for any family and task, which survives a kill at any moment and resumes as if nothing had happened."""

import math
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, Sampler, Subset
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.training_args import OptimizerNames

from ..data.encoded_samples import EncodedSamples, EncodedStream
from ..data.feature_cache.keeping import KeptClips
from ..data.samples import Sample
from ..families import family_of, unwrapped_name
from ..files import explained_write_errors, write_json
from ..hub import CardDetails
from ..hub.checkpoints import TRAINING_FILE
from ..weight_files import check_resumed
from .callbacks import EvaluationStopped, ExactResume, SignalledStop, spared_by_signals
from .checkpoints import break_seal, last_whole_checkpoint, read_recipe, rotate_checkpoints, seal_checkpoint
from .parts import shape_of
from .pushing import PushingTrainer
from .sharding import (
    check_is_spread,
    complete_states,
    give_scalars_an_axis,
    spread_in_units_of_their_own,
    without_axis,
)

# Options of a `DataLoader` that `TrainingArguments` has.
_OF_LOADERS = """
num_workers pin_memory persistent_workers prefetch_factor drop_last multiprocessing_context in_order
""".split()
_OF_ONE_RATE = ("lomo", "adalomo")
# NumPy 2 renamed the module of the function that rebuilds an array; random states are read under either name.
_REBUILD_ARRAY = np.zeros(0).__reduce__()[0]
_ARRAYS_OF_EITHER_NUMPY: list[Any] = [
    (_REBUILD_ARRAY, "numpy.core.multiarray._reconstruct"),
    (_REBUILD_ARRAY, "numpy._core.multiarray._reconstruct"),
]
Predicted = tuple[Sample, Any]
PredictSamples = Callable[[Any, Any, Sequence[Sample], int], Iterator[Predicted]]
ScorePredictions = Callable[[Sequence[Any], Sequence[Sample]], Mapping[str, float]]


class ResumableTrainer(PushingTrainer):
    """A `Trainer` for models of any family and task.

    Parts of a model may have learning rates of their own. Weight decay spares what it would harm: vectors (norms,
    biases, gates, scales) and what `Family.no_weight_decay` names. A checkpoint is sealed when it is whole, and older
    ones are deleted after that. With `predict` and `score`, each evaluation also scores what the model predicts. It
    pushes as `PushingTrainer`.

    Args:
        learning_rates: by the names of `Family.rates`; `args.learning_rate` for all other parameters. Errors call the
            rate of `"gate"` gate_learning_rate.
        rate_scale: factor of the learning rate of a parameter, by its name; 1 for all when absent.
        recipe: what the result depends on, kept with each checkpoint.
        predict: yields samples with their predictions, of a model, its processor, samples and a batch size.
        score: turns predictions about the samples of `eval_dataset`, an `EncodedSamples` or `Sample`s, into metrics
            by name. The samples come without their pictures.
        card: details for the card of a push; the recipe when absent.
        args, kwargs: of `Trainer`.

    Raises:
        ValueError: if `score` comes without `predict`, or if an option of `args` cannot hold for the samples, such as
            their order for a streamed dataset, or FSDP on CPUs.
    """

    def __init__(
        self,
        *args: Any,
        learning_rates: Mapping[str, float] | None = None,
        rate_scale: Callable[[str], float] | None = None,
        recipe: Mapping[str, Any] | None = None,
        predict: PredictSamples | None = None,
        score: ScorePredictions | None = None,
        card: CardDetails | None = None,
        **kwargs: Any,
    ):
        if score is not None and predict is None:
            raise ValueError("predict must be given with score, got None")
        super().__init__(*args, card=card or CardDetails(training=dict(recipe or {})), **kwargs)
        _check_sampling(self.args, self.train_dataset)
        check_is_spread(self)
        self._scalars = give_scalars_an_axis(self.model) if self.is_fsdp_enabled else set()
        self.learning_rates = dict(learning_rates or {})
        self.rate_scale = rate_scale
        self.recipe = dict(recipe or {})
        self.predict_samples = predict
        self.score_predictions = score
        self._trial_at_work: Any = None
        self._ignored_keys: list[str] | None = None
        self._begun_at: Path | None = None
        self._numbers: tempfile.TemporaryDirectory | None = None
        self._owes_evaluation = False
        self._stop = SignalledStop(lambda: self.accelerator)
        if self.args.enable_jit_checkpoint:
            self._stop_by_own_callback()
        self._resume = ExactResume(
            find_run=lambda: Path(self._get_output_dir(self._trial_at_work)),
            make_up=self._make_up_for_evaluation,
        )
        self.add_callback(self._resume)

    def _stop_by_own_callback(self) -> None:
        """Put our callback for SIGTERM in the place of that of transformers, and undo what that one has done."""
        other: Any = self.pop_callback(JITCheckpointCallback)
        other.on_train_end(self.args, self.state, self.control)
        self.add_callback(self._stop)

    @property
    def has_stopped(self) -> bool:
        """Whether SIGTERM has ended the last training, by a checkpoint that it resumes from."""
        return self._stop.has_stopped

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train as `Trainer` does; with `args.enable_jit_checkpoint`, SIGTERM ends it by a checkpoint.

        Args:
            resume_from_checkpoint: a folder; `True` for the last whole checkpoint in that of the run.
            trial, ignore_keys_for_eval: as in `Trainer`. SIGTERM ends a search and its process.

        Raises:
            ValueError: if the folder of the run has no whole checkpoint to resume from, or if the weights of the
                checkpoint are damaged or ambiguous.
        """
        if resume_from_checkpoint is True:
            run = Path(self._get_output_dir(trial))
            if (last := last_whole_checkpoint(run)) is None:
                raise ValueError(f"resume_from_checkpoint must be a whole checkpoint, got none in {run}")
            resume_from_checkpoint = str(last)
        if resume_from_checkpoint:
            check_resumed(Path(resume_from_checkpoint))
        self._trial_at_work = trial
        self._ignored_keys = ignore_keys_for_eval
        self._begun_at = Path(resume_from_checkpoint).resolve() if resume_from_checkpoint else None
        self._owes_evaluation = False
        try:
            with self._stop.listening() if self.args.enable_jit_checkpoint else nullcontext():
                output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        except EvaluationStopped:  # before the first step: nothing is there to save
            self._stop.has_stopped = True
            output = TrainOutput(self.state.global_step, math.nan, {})
        finally:
            self._trial_at_work = None
            if self._numbers is not None:
                self._numbers.cleanup()
                self._numbers = None
        if trial is not None and self.has_stopped:
            signal.raise_signal(signal.SIGTERM)
        return output

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Name the parameters that weight decay is applied to."""
        trained: Any = self.model
        spared = family_of(trained).no_weight_decay
        vectors = {name for name, parameter in model.named_parameters() if len(shape_of(parameter)) < 2}
        decayed = []
        for name in super().get_decay_parameter_names(model):
            last_word = name.rpartition(".")[2]
            if name not in vectors and last_word not in spared:
                decayed.append(name)
        return decayed

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer and split its groups by learning rate.

        Raises:
            ValueError: if a learning rate is given for what is not there or does not learn, or to an optimizer that
                has one for all.
        """
        optimizer = super().create_optimizer(model)
        learning = self.model if model is None else model
        rates = self._own_rates(learning)
        scales = self._rate_scales(learning)
        name = OptimizerNames(self.args.optim).value
        if (rates or scales) and (name in _OF_ONE_RATE or name.endswith("layerwise")):
            raise ValueError(f"learning rates of parts need an optimizer that has several, got --optim {name}")
        groups = []
        for group in optimizer.param_groups:
            by_rate: dict[float, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                rate = rates.get(parameter, group["lr"]) * scales.get(parameter, 1.0)
                by_rate.setdefault(rate, []).append(parameter)
            groups += [{**group, "params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
        optimizer.param_groups[:] = groups
        return optimizer

    def _own_rates(self, model: Any) -> dict[torch.nn.Parameter, float]:
        """Return the learning rate of each parameter that `learning_rates` concerns."""
        rates: dict[torch.nn.Parameter, float] = {}
        if not self.learning_rates:
            return rates
        groups = family_of(model).rates
        if unknown := sorted(self.learning_rates.keys() - groups.keys()):
            raise ValueError(f"learning_rates must be of {sorted(groups)}, got {unknown}")
        for group, prefixes in groups.items():  # a later group is a part of an earlier one
            rate = self.learning_rates.get(group)
            if rate is None:
                continue
            parameters = []
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and unwrapped_name(name).startswith(prefixes):
                    parameters.append(parameter)
            if not parameters:
                option = f"{group}_learning_rate"
                raise ValueError(f"{option} must be the rate of something that learns, got {rate} for no parameter")
            rates.update(dict.fromkeys(parameters, rate))
        return rates

    def _rate_scales(self, model: Any) -> dict[torch.nn.Parameter, float]:
        """The factor of the learning rate of every parameter that learns, where there is such a rule."""
        scales: dict[torch.nn.Parameter, float] = {}
        if self.rate_scale is None:
            return scales
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                scales[parameter] = self.rate_scale(unwrapped_name(name))
        return scales

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches to learn from; each process reads and decodes its own share of a streamed dataset."""
        if not isinstance(self.train_dataset, EncodedStream):
            return super().get_train_dataloader()
        options: dict[str, Any] = {name: getattr(self.args, f"dataloader_{name}") for name in _OF_LOADERS}
        stream = DataLoader(
            self.train_dataset, batch_size=self._train_batch_size, collate_fn=self.data_collator, **options
        )
        return self._spared(stream)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler | None:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if isinstance(sampler, LengthGroupedSampler):
            sampler.generator = self._resume.order
        return sampler

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        return self._spared(super()._get_dataloader(*args, **kwargs))

    def _spared(self, loader: DataLoader) -> DataLoader:
        """Let the workers of a loader outlive a SIGTERM, as this process does."""
        if self.args.enable_jit_checkpoint:
            own: Any = getattr(loader, "base_dataloader", loader)  # accelerate wraps it
            own.worker_init_fn = spared_by_signals(own.worker_init_fn)
        return loader

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """Take the batches of a step; none after the last step, from which a run may resume."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save as `Trainer` does; after SIGTERM, save and postpone the evaluation."""
        if not self._stop.is_agreed:
            try:
                with _known_best_metric():
                    return super()._maybe_log_save_evaluate(*args, **kwargs)
            except EvaluationStopped:
                self.control.should_save = True
        self._owes_evaluation = self.control.should_evaluate
        self.control.should_evaluate = False
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as `Trainer` does; if SIGTERM stops it, let it have drawn no random numbers."""
        if not self.args.enable_jit_checkpoint:
            return super()._evaluate(*args, **kwargs)
        with tempfile.TemporaryDirectory() as folder:
            self._save_rng_state(folder)
            try:
                return super()._evaluate(*args, **kwargs)
            except EvaluationStopped:
                super()._load_rng_state(folder)
                raise

    def _make_up_for_evaluation(self) -> None:
        """Evaluate as the run that was stopped would have done, and let training draw the numbers after that."""
        self._load_rng_state(str(self._begun_at))
        with _known_best_metric():
            metrics = self._evaluate(self._trial_at_work, self._ignored_keys)
            self._determine_best_metric(metrics, self._trial_at_work)
        self._numbers = tempfile.TemporaryDirectory()
        self._save_rng_state(self._numbers.name)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with torch.serialization.safe_globals(_ARRAYS_OF_EITHER_NUMPY):
            super()._load_rng_state(checkpoint if self._numbers is None else self._numbers.name)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `Trainer` does, and score predictions, unless `args.prediction_loss_only`."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self.score_predictions is not None and not self.args.prediction_loss_only:
            dataset: Any = dataloader.dataset
            scores = self.score_predictions(*self.predict_together(getattr(dataset, "samples", dataset)))
            named = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
            output = output._replace(metrics={**(output.metrics or {}), **named})
        return output

    def predict_together(self, samples: Sequence[Sample]) -> tuple[list[Any], list[Sample]]:
        """Predict about samples, each process about a share of them, and bring all predictions to each.

        Raises:
            ValueError: if the trainer has no `predict`.
        """
        if self.predict_samples is None:
            raise ValueError("predict must be given to predict about samples, got None")
        world = self.args.world_size
        count = len(samples)
        # Shares of one length: where the model itself is spread, all processes compute together.
        end = math.ceil(count / world) * world
        share = [number % count for number in range(self.args.process_index, end, world)]
        chosen: Any = Subset(samples, share)  # type: ignore[arg-type]  # any sequence will do
        rows = []
        with self.accelerator.autocast():
            predicted = self.predict_samples(
                self.model, self.processing_class, chosen, self.args.per_device_eval_batch_size
            )
            for number, (sample, prediction) in zip(share, predicted, strict=True):
                self._stop.check_evaluation()
                rows.append((number, prediction, _without_video(sample)))
        found = {number: (prediction, sample) for number, prediction, sample in gather_object(rows)}
        predictions = [found[number][0] for number in range(count)]
        seen = [found[number][1] for number in range(count)]
        return predictions, seen

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save as `Trainer` does, but delete nothing before the new checkpoint is whole."""
        run = Path(self._get_output_dir(trial))
        folder = run / f"checkpoint-{self.state.global_step}"
        if folder.resolve() == self._begun_at and read_recipe(folder) is not None:
            return  # not one step has been made since: to write it again would only put it at risk
        before = break_seal(folder) if self.args.should_save else {}
        self.accelerator.wait_for_everyone()
        limit = self.args.save_total_limit
        self.args.save_total_limit = None
        try:
            with self._explained(folder, run):
                self.control.should_evaluate = self._owes_evaluation  # is written with the state of the run
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    seal_checkpoint(folder, self._recipe_of(trial), before)
        except OSError:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(run, limit, folder, self.state.best_model_checkpoint)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Prepare as `Trainer` does, also a model that FSDP could not spread as Accelerate would."""
        context: Any = nullcontext()
        if self.is_fsdp_enabled:
            context = spread_in_units_of_their_own(self.accelerator.state.fsdp_plugin, self.model)
        with context:
            return super()._prepare_for_training(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            complete_states(self.optimizer)
        super()._save_optimizer_and_scheduler(output_dir)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """End as `Trainer` does, but keep the last checkpoint, at which the same command ends again."""
        limit = self.args.save_total_limit
        self.args.save_total_limit = None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, and push it, as `Trainer` does; an error names a disk without room."""
        if isinstance(self.model, FSDPModule):
            # Its class is made by torch; the code of the class behind it shall travel with a checkpoint.
            type(self.model).__module__ = type(self.model).__mro__[2].__module__
        is_to_push = self.args.push_to_hub and not _internal_call
        if output_dir is not None or not is_to_push:  # else the push saves it
            run = Path(self._get_output_dir(self._trial_at_work))
            with self._explained(Path(output_dir or self._run), run):
                super().save_model(output_dir, _internal_call=True)
        if is_to_push:
            self.push_to_hub("Model save")

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if state_dict is not None:
            state_dict = without_axis(state_dict, self._scalars)
        super()._save(output_dir, state_dict)
        if self.args.should_save and self.recipe:
            write_json(Path(output_dir or self._run) / TRAINING_FILE, self._recipe_of(self._trial_at_work))

    def _recipe_of(self, trial: Any) -> dict[str, Any]:
        """The recipe, in a search with the values of the trial."""
        if trial is None:
            return self.recipe
        return {name: getattr(self.args, name, value) for name, value in self.recipe.items()}

    def _explained(self, folder: Path, run: Path) -> Any:
        safe = last_whole_checkpoint(run)
        kept = "No checkpoint is there yet"
        if safe is not None:
            kept = f"{safe} is whole: make room and start the same command again"
        return explained_write_errors(folder, kept)


@contextmanager
def _known_best_metric() -> Iterator[None]:
    """Turn transformers' `KeyError` for a metric that no evaluation has given into a sentence about the option.

    Which metrics there are depends on the samples, so that nobody knows before.

    Raises:
        ValueError: for such a metric.
    """
    try:
        yield
    except KeyError as error:
        if "metric_for_best_model" not in str(error):
            raise
        raise ValueError(f"metric_for_best_model must be a metric of the evaluation: {error.args[0]}") from error


def _without_video(sample: Any) -> Any:
    """Return a sample, and one that it holds, without frames and file, whichever it has."""
    held = {field.name for field in fields(sample)}
    emptied = {name: value for name, value in (("frames", None), ("video", b"")) if name in held}
    if "sample" in held:
        emptied["sample"] = _without_video(sample.sample)
    return replace(sample, **emptied)


def _check_sampling(args: Any, dataset: Any) -> None:
    """Refuse options that a streamed dataset or encoded samples would leave without an effect."""
    if isinstance(dataset, EncodedSamples | EncodedStream | KeptClips) and args.length_column_name != "length":
        raise ValueError(f"length_column_name names a column of a table, got {args.length_column_name!r} for samples")
    if not isinstance(dataset, EncodedStream):
        return
    if args.train_sampling_strategy != "random":
        strategy = str(args.train_sampling_strategy)
        raise ValueError(
            f"a streamed dataset is read in an order of its own, got train_sampling_strategy={strategy!r}"
        )
    accelerator = args.accelerator_config
    shared = [name for name in ("split_batches", "dispatch_batches") if getattr(accelerator, name)]
    if shared:
        raise ValueError(
            f"each process reads its own share of a streamed dataset, got accelerator_config with {shared}"
        )
