"""The model that a run starts from: whole, with low-rank updates, or as the base of new ones."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from transformers import AutoProcessor, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.hub import cached_file, resolve_revision

from ..families import Family, auto_class, config_of, family_of, has_family, load_model
from ..messages import logger, without_load_report
from ..models.loading_checkpoints import refuse_lacking
from ..repositories import check_revision
from ..weight_files import find_weights
from .arguments import TrainedModelArguments
from .parts import quantization_config, require_bitsandbytes
from .updates import LowRankUpdates, find_updates


class Adapting(NamedTuple):
    """How a task makes a model of its own of one that is of no family.

    Attributes:
        family: of the models that it makes.
        takes: returns whether it can make one of a model with this configuration.
        build: returns model and processor, of the path or Hub id of a model of transformers, its revision and the
            options. What is new in the model may be drawn at random.
    """

    family: Family
    takes: Callable[[Any], bool]
    build: Callable[[str, str | None, Any], tuple[PreTrainedModel, Any]]


class BaseRules(NamedTuple):
    """What a task adds to how a base is loaded.

    Attributes:
        task: whose class of models a base is loaded as.
        may_lack: parts whose weights a base may lack.
        check: raises a `ValueError` if a part in `may_lack` does not fit what is asked for; of the model, what
            `from_pretrained` reports about its weights, the options, and the base's path.
        prepare: sets a processor up, of the processor, the model and the options.
        adapting: makes a model of a base that is of no family; `None` where such a base is refused.
    """

    task: str
    may_lack: tuple[str, ...]
    check: Callable[[Any, dict[str, Any], Any, str], None]
    prepare: Callable[[Any, Any, Any], None]
    adapting: Adapting | None = None


class _Source(NamedTuple):
    """Where a base comes from, and what is asked of it."""

    path: str
    revision: str | None
    arguments: TrainedModelArguments
    rules: BaseRules

    @property
    def commit(self) -> str | None:
        """The commit of a base on the Hub."""
        return getattr(self.revision, "resolved", None)

    def read_config(self) -> Any:
        """Read the configuration of the base."""
        return config_of(self.path, revision=self.revision)

    def adapting(self, config: Any) -> Adapting | None:
        """Return how a model is made of a base with this configuration, if that is of no family."""
        adapting = self.rules.adapting
        if has_family(config) or adapting is None or not adapting.takes(config):
            return None
        return adapting


def read_family_of_base(arguments: TrainedModelArguments, rules: BaseRules) -> Family:
    """Return the family of the model that `load_base` loads or makes; of the base its configuration alone is read.

    Raises:
        ValueError: if the base is of no family, and the task makes no model of it, or as `find_updates`.
    """
    path = arguments.model
    check_revision(path, arguments.model_revision)
    revision = arguments.model_revision
    updates = find_updates(path, revision)
    if updates is not None:
        path = updates.base
        revision = updates.settings.revision
    source = _Source(path, revision, arguments, rules)
    config = source.read_config()
    adapting = source.adapting(config)
    if adapting is not None:
        return adapting.family
    return family_of(config, rules.task)


def load_base(
    arguments: TrainedModelArguments, run: Path, is_resumed: bool, rules: BaseRules
) -> tuple[PreTrainedModel, Any, str | None]:
    """Load the base as it is asked for, its processor, and its commit, if it is of the Hub.

    A checkpoint of low-rank updates names the base that it belongs to and holds no configuration. Where low-rank
    updates are to be trained on a base whose configuration the options change, or of which a model is made first, the
    changed base is saved once, as `adapted_base` in the run's folder.

    Low-rank updates as a base are merged into their own base, unless they are trained further. Options that change the
    base then change the merged one.

    Args:
        arguments: which model, and what changes in it.
        run: folder of the run.
        is_resumed: whether the run resumes from a checkpoint; a base that it has saved is then kept.
        rules: of the task.

    Raises:
        ValueError: if the rules refuse the base, if it is the folder that a base is to be saved in, if ZeRO-3 would
            have to save one, or as `find_updates`.
        ImportError: if weights in 4 bits are asked for without bitsandbytes, or low-rank updates without peft.
    """
    if arguments.low_rank == "qlora":
        require_bitsandbytes()  # before a base is loaded and saved
    own = (run / "adapted_base").resolve()  # a relative path reads as a Hub id
    path = arguments.model
    check_revision(path, arguments.model_revision)
    revision = resolve_revision(path, arguments.model_revision)  # once: all of it is of one commit
    updates = find_updates(path, arguments.model_revision)
    if updates is not None:
        return _load_updated(updates, arguments, rules)
    source = _Source(path, revision, arguments, rules)
    if arguments.low_rank and _has_changed(source):
        if Path(path).resolve() == own:
            raise ValueError(f"model must be in a folder of its own, got {own}, where this run saves its base")
        is_kept = is_resumed and own.exists()
        if is_deepspeed_zero3_enabled() and not is_kept:
            raise ValueError(
                f"ZeRO-3 cannot save the base that low-rank updates beside {arguments.config()} belong to: save it "
                f"first, `from_pretrained({path!r}, ...)` with these values, `save_pretrained`, and its processor"
            )
        if not is_kept and PartialState().is_main_process:
            _save_base(*_load(source, is_quantised=False), own)
        PartialState().wait_for_everyone()
        source = source._replace(path=str(own), revision=None)
    return *_load(source, is_quantised=arguments.low_rank == "qlora"), source.commit


def _load_updated(
    updates: LowRankUpdates, arguments: TrainedModelArguments, rules: BaseRules
) -> tuple[PreTrainedModel, Any, str | None]:
    """Load the base of low-rank updates, with them merged unless they are trained further, and their processor."""
    source = _Source(updates.base, resolve_revision(updates.base, updates.settings.revision), arguments, rules)
    if source.adapting(source.read_config()) is not None:
        raise ValueError(
            f"{updates.path} must hold low-rank updates of a model with an adapter, got those of {updates.base}: "
            f"merge them first, {updates.merging}"
        )
    changed = _changed_values(source)
    if changed and arguments.low_rank is not None:
        raise ValueError(
            f"{updates.path} holds low-rank updates of a base without {changed}: leave these out, or merge the "
            f"updates first, {updates.merging}"
        )
    if changed:
        merged = updates.merge(load_model(source.path, revision=source.revision))
        model, processor = _load(source, weights=merged.state_dict())
    else:
        model, processor = _load(source, is_quantised=arguments.low_rank == "qlora")
        if arguments.low_rank is None:
            model = updates.merge(model)
    if _has_processor(updates):
        processor = _load_processor(source._replace(path=updates.path, revision=updates.revision), model)
    return model, processor, source.commit


def _has_processor(updates: LowRankUpdates) -> bool:
    found = cached_file(
        updates.path, "processor_config.json", revision=updates.revision, _raise_exceptions_for_missing_entries=False
    )
    return found is not None


def _has_changed(source: _Source) -> bool:
    """Whether the model that is asked for is not the base as it is."""
    return source.adapting(source.read_config()) is not None or bool(_changed_values(source))


def _changed_values(source: _Source) -> dict[str, Any]:
    """Return the values of the configuration that is asked for in which it is not that of the base."""
    config = source.read_config()
    held = config.to_dict()
    wanted = _changed(config, source).to_dict()
    return {name: value for name, value in wanted.items() if name not in held or held[name] != value}


def _changed(held: Any, source: _Source) -> Any:
    """Return the configuration of a base as it is asked for."""
    return type(held).from_dict({**held.to_dict(), **source.arguments.config()})  # checks the changed values, too


def _load(
    source: _Source, is_quantised: bool = False, weights: dict[str, torch.Tensor] | None = None
) -> tuple[PreTrainedModel, Any]:
    """Load the model that is asked for, of the base's weights unless others are given, and its processor."""
    path = source.path
    held = source.read_config()
    adapting = source.adapting(held)
    if adapting is not None:
        return _build(source, adapting)
    config = _changed(held, source)
    family = family_of(config, source.rules.task)
    options: dict[str, Any] = {}
    model_class: Any = auto_class(family)
    if is_quantised or weights is not None:
        with torch.device("meta"):
            shapes = model_class.from_config(config)
    if is_quantised:
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        options = {"quantization_config": quantization_config(family, shapes), "device_map": {"": device}}
    if weights is not None:  # no Auto class takes them
        model_class = type(shapes)
        options = {"state_dict": weights}
    if Path(path).is_dir():
        find_weights(Path(path))  # names a missing or damaged file
    with without_load_report():
        loaded: Any = model_class.from_pretrained(
            path if weights is None else None,
            config=config,
            revision=source.revision,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    model, loading = loaded
    lacking = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
    refuse_lacking(path, (name for name in lacking if family.part_of(name) not in source.rules.may_lack))
    source.rules.check(model, loading, source.arguments, path)
    if PartialState().is_main_process:
        _report_differences(path, family, lacking, loading["unexpected_keys"])
    return model, _load_processor(source, model)


def _report_differences(path: str, family: Family, lacking: set[str], unused: set[str]) -> None:
    """Tell in a line each which parts of a model start fresh, and which weights of its base have no place in it."""
    if lacking:
        counts = Counter(str(family.part_of(name)) for name in lacking)
        parts = " and ".join(f"{part} ({count} weights)" for part, count in sorted(counts.items()))
        logger.info(f"new in the model, and untrained: {parts}; all the rest is of {path}")
    if unused:
        logger.info(f"the model has no place for {len(unused)} weights of {path}, such as {min(unused)}")


def _build(source: _Source, adapting: Adapting) -> tuple[PreTrainedModel, Any]:
    """Make a model, and its processor, of a base that is of no family."""
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            f"ZeRO-3 cannot make a {adapting.family.name} of {source.path}: save one first, `from_base_pretrained` "
            "and `save_pretrained`, and its processor"
        )
    model, processor = adapting.build(source.path, source.revision, source.arguments)
    if PartialState().is_main_process:
        logger.info(f"{source.path} is made a model of {adapting.family.name}, with what is new in it untrained")
    source.rules.prepare(processor, model, source.arguments)
    return model, processor


def _load_processor(source: _Source, model: PreTrainedModel) -> Any:
    processor = AutoProcessor.from_pretrained(source.path, revision=source.revision)
    source.rules.prepare(processor, model, source.arguments)
    return processor


def _save_base(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Save a base, whole or not at all."""
    unfinished = folder.with_name("_base")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    logger.info(f"low-rank updates belong to a base of their own, as the options have changed it: {folder}")
