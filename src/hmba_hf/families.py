"""The families of models and the tasks that they are for: one row of a table each."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoConfig
from transformers.utils import find_adapter_config_file

from .files import read_json_object
from .weight_files import find_weights

# What DDP, torch.compile, FSDP and activation checkpointing put into the names of parameters.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
Prefixes = str | tuple[str, ...]
# Options of `from_pretrained` that concern the files of a configuration.
_OF_CONFIGURATIONS = """
revision token cache_dir subfolder local_files_only force_download proxies trust_remote_code
""".split()
_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")  # of a `device_map`


class Family(NamedTuple):
    """A family of models beside its files in `models/`; one row for each task that it has models for.

    Attributes:
        model_type: in the configuration of its checkpoints.
        name: for people.
        task: what its models do, a name of `TASKS`.
        auto_class: name of the Auto class of transformers that loads it.
        parts: prefixes of parameter names, by the name of the trainable part.
        alike: parts that share a dtype, since one feeds the other.
        rates: prefixes of parameter names that may have a learning rate of their own, by its name. A parameter that
            belongs to several has the rate of the last one that is given.
        no_weight_decay: last words of the names of matrices that weight decay spares, such as `A_log`. It spares
            vectors, such as biases and the weights of norms, in every family.
        learns: parts that learn in a task unless options name others; empty where the task says it.
        encodes_frames: the part whose features of frames can be cached; `None` where there is none.
        low_rank_part: the part that can learn by low-rank updates; `None` where there is none.
        no_low_rank: prefixes of that part whose modules get no updates, such as the head.
        pipeline_tag: on the Hub.
        tags: of its cards.
        card: template of its cards, a file in `model_cards/` or the absolute path of another one.
        architectures: names of the classes of models that the row is for, as configurations hold them; all classes of
            the model type when empty.
        results_tag: the Hub's word for the task in the results of its cards; that of `task` when absent.
    """

    model_type: str
    name: str
    task: str
    auto_class: str
    parts: Mapping[str, Prefixes]
    pipeline_tag: str
    card: str | Path
    alike: tuple[str, ...] = ()
    rates: Mapping[str, Prefixes] = MappingProxyType({})
    no_weight_decay: tuple[str, ...] = ()
    learns: tuple[str, ...] = ()
    encodes_frames: str | None = None
    low_rank_part: str | None = None
    no_low_rank: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    results_tag: str | None = None

    def part_of(self, name: str) -> str | None:
        """Name the part of a parameter, also in a wrapped or a PEFT model; `None` for no part."""
        return _first_with(self.parts, unwrapped_name(name))

    def modules_of(self, part: str) -> list[str]:
        """Return the dotted names of a part's modules."""
        return [prefix.rstrip(".") for prefix in _listed(self.parts[part])]

    def modules_in(self, model: Any, part: str) -> list[str]:
        """Return the dotted names of the modules of a bare model that are a part alone, the outermost ones.

        They are those of `modules_of`, but for the ones that the model lacks, and for one that holds other parts, too.
        """
        modules = dict(model.named_modules())
        found = []
        waiting = [name for name in self.modules_of(part) if name in modules]
        while waiting:
            name = waiting.pop(0)
            weights = modules[name].named_parameters(name, remove_duplicate=False)
            parts = {self.part_of(weight) for weight, _ in weights}
            if parts <= {part}:
                found.append(name)
            elif part in parts:
                children = modules[name].named_children()
                waiting += [f"{name}.{child}" for child, module in children if any(True for _ in module.parameters())]
        return found

    def low_rank_modules(self) -> list[str]:
        """Return the dotted names of the modules that low-rank updates belong to."""
        if self.low_rank_part is None:
            return []
        spared = {prefix.rstrip(".") for prefix in self.no_low_rank}
        return [module for module in self.modules_of(self.low_rank_part) if module not in spared]


_VIDEOMAMBA: dict[str, Any] = {
    "parts": {
        "embeddings": "videomamba.embeddings.",
        "encoder": ("videomamba.encoder.", "videomamba.norm."),
        "head": ("classifier.", "distillation_head."),
    },
    # The released code decays `A_log`, against the mark that its parameters carry.
    "no_weight_decay": ("cls_token", "position_embeddings", "temporal_embeddings"),
    "tags": ("mamba", "video"),
    "card": "videomamba.md",
}

# What the two mixers of a MambaVL do not share: the released recipes count their decays among all other weights.
_MIXERS = tuple(
    f"mambavl.fusion.{mixer}.{name}"
    for mixer in ("video_mixer", "text_mixer")
    for name in ("in_proj.", "conv1d.", "x_proj.", "dt_proj.", "D", "out_proj.")
)

FAMILIES = [
    Family(
        model_type="hmba",
        name="H-MBA",
        task="answering",
        auto_class="AutoModelForImageTextToText",
        parts={
            "vision_tower": "model.vision_tower.",
            "adapter": "model.temporal_adapter.",
            "projector": "model.multi_modal_projector.",
            "language_model": ("model.language_model.", "lm_head."),
        },
        alike=("adapter", "projector"),
        rates={
            "adapter": ("model.temporal_adapter.", "model.multi_modal_projector."),
            "gate": "model.temporal_adapter.gate",
        },
        no_weight_decay=("A_log", "temporal_position_embedding", "branch_embedding", "stride_embedding"),
        learns=("adapter", "projector", "language_model"),
        encodes_frames="vision_tower",
        low_rank_part="language_model",
        no_low_rank=("lm_head.",),
        pipeline_tag="video-text-to-text",
        tags=("driving", "mamba", "video"),
        card="hmba.md",
    ),
    Family(
        model_type="hmba_vlm",
        name="H-MBA",
        task="answering",
        auto_class="AutoModelForImageTextToText",
        parts={
            "adapter": "model.temporal_adapter.",
            "language_model": (  # a base has some of these
                "model.base.model.language_model.",
                "model.base.model.text_model.",
                "model.base.language_model.model.",
                "model.base.lm_head.",
                "model.base.language_model.lm_head.",
            ),
            "vision": "model.base.",  # all else of the base: its tower and what joins it to the language model
        },
        rates={
            "adapter": "model.temporal_adapter.",
            "gate": "model.temporal_adapter.gate",
        },
        no_weight_decay=("A_log", "temporal_position_embedding", "branch_embedding", "stride_embedding"),
        learns=("adapter",),
        encodes_frames="vision",
        low_rank_part="language_model",
        no_low_rank=("model.base.lm_head.", "model.base.language_model.lm_head."),
        pipeline_tag="video-text-to-text",
        tags=("driving", "mamba", "video"),
        card="hmba.md",
    ),
    Family(
        model_type="videomamba",
        name="VideoMamba",
        task="classification",
        auto_class="AutoModelForVideoClassification",
        architectures=("VideoMambaForVideoClassification",),
        pipeline_tag="video-classification",
        **_VIDEOMAMBA,
    ),
    Family(
        model_type="videomamba",
        name="VideoMamba",
        task="classification",
        auto_class="AutoModelForImageClassification",
        architectures=("VideoMambaForImageClassification",),
        pipeline_tag="image-classification",
        results_tag="image-classification",
        **_VIDEOMAMBA,
    ),
    Family(
        model_type="videomamba",
        name="VideoMamba",
        task="pretraining",
        auto_class="AutoModelForPreTraining",
        architectures=("VideoMambaForPreTraining",),
        pipeline_tag="feature-extraction",
        **{
            **_VIDEOMAMBA,
            "parts": {**_VIDEOMAMBA["parts"], "head": "alignment_heads."},
            "card": "videomamba_pretraining.md",
        },
    ),
    Family(
        model_type="videomamba_retrieval",
        name="VideoMamba",
        task="retrieval",
        auto_class="AutoModel",
        parts={
            "vision_model": ("vision_model.", "pooler."),
            "text_model": "text_model.",
            "fusion": ("cross_attentions.", "vision_projection.", "text_projection.", "matching_head.", "logit_"),
        },
        no_weight_decay=("cls_token", "position_embeddings"),
        pipeline_tag="feature-extraction",
        tags=("mamba", "video", "text-to-video-retrieval"),
        card="videomamba_retrieval.md",
    ),
    Family(
        model_type="mambavl",
        name="MambaVL",
        task="classification",
        auto_class="AutoModelForVideoClassification",
        architectures=("MambaVLForVideoClassification",),
        parts={
            "vision_model": "mambavl.vision_model.",
            "text_model": "mambavl.text_model.",
            "fusion": ("mambavl.fusion.", "mambavl.text_projection.", "mambavl.vision_projection."),
            "head": "classifiers.",
        },
        alike=("fusion", "head"),
        rates={
            "video": "mambavl.vision_model.",
            "mamba": _MIXERS,
        },
        no_weight_decay=(
            "A_log",
            "cls_token",
            "position_embeddings",
            "temporal_embeddings",
            "class_tokens",
            "modality_embeddings",
        ),
        pipeline_tag="video-classification",
        tags=("mamba", "video", "visual-question-answering"),
        card="mambavl.md",
    ),
]

# A task's room holds it as `TASK`, and is imported when it is asked for.
TASKS: dict[str, Any] = {
    "answering": "hmba_hf.tasks.answering",
    "classification": "hmba_hf.tasks.classification",
    "retrieval": "hmba_hf.tasks.retrieval",
    "pretraining": "hmba_hf.tasks.pretraining",
}
TASK_OF_VERSION_0_1 = "answering"  # its records and results name none


def register_family(family: Family) -> None:
    """Add a family; its task must be there.

    Raises:
        ValueError: if its model type is taken, or one of its architectures, if there is no such task, if
            `low_rank_part` is no part, or if `no_low_rank` has a prefix that is not of that part.
    """
    for known in FAMILIES:
        if known.model_type == family.model_type:
            _check_apart(known, family)
    find_task(family.task)
    if family.low_rank_part not in (None, *family.parts):
        raise ValueError(f"low_rank_part must be of {sorted(family.parts)}, got {family.low_rank_part!r}")
    prefixes = _listed(family.parts.get(family.low_rank_part or "", ()))
    if odd := sorted(set(family.no_low_rank) - set(prefixes)):
        raise ValueError(f"no_low_rank must be of {list(prefixes)}, the prefixes of low_rank_part, got {odd}")
    FAMILIES.append(family)


def register_task(task: Any) -> None:
    """Add a task, an `hmba_hf.evaluation.task.Task`.

    Raises:
        ValueError: if its name is taken.
    """
    if task.name in TASKS:
        raise ValueError(f"name must be one that no task has, got {task.name!r}")
    TASKS[task.name] = task


def find_task(name: str) -> Any:
    """Return a task, an `hmba_hf.evaluation.task.Task`.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in TASKS:
        raise ValueError(f"task must be of {sorted(TASKS)}, got {name!r}")
    task = TASKS[name]
    if isinstance(task, str):
        return import_module(task).TASK
    return task


def has_family(config: Any) -> bool:
    """Return whether a configuration is of a family."""
    return any(family.model_type == config.model_type for family in FAMILIES)


def family_of(model: Any, task: str | None = None) -> Family:
    """Return the family of a model, also of one with low-rank updates, or of a configuration.

    Of several rows of a model type, the class of a model chooses, and of a configuration the class that it names. The
    first row is taken where no row is for that class.

    Args:
        model: or a configuration.
        task: of the row, where a checkpoint may be loaded for another task than that of its own class.

    Raises:
        ValueError: if it is of none.
    """
    config = getattr(model, "config", model)
    rows = [family for family in FAMILIES if family.model_type == config.model_type]
    if not rows:
        known = list(dict.fromkeys(family.model_type for family in FAMILIES))
        raise ValueError(f"model_type must be of {known}, got {config.model_type!r}")
    if task is not None:
        tasks = sorted({family.task for family in rows})
        rows = [family for family in rows if family.task == task]
        if not rows:
            raise ValueError(f"task must be one that {config.model_type!r} has models for, {tasks}, got {task!r}")
    for name in _class_names(model, config):
        for family in rows:
            if name in family.architectures:
                return family
    return rows[0]


def _class_names(model: Any, config: Any) -> list[str]:
    """Name the class of a model and those that it is made from, or the classes that a configuration names."""
    if model is config:
        return list(getattr(config, "architectures", None) or ())
    if hasattr(model, "get_base_model"):  # of PEFT
        model = model.get_base_model()
    return [kind.__name__ for kind in type(model).__mro__]


def _check_apart(known: Family, family: Family) -> None:
    """Raise a `ValueError` if two rows of one model type are for the same class of models."""
    if not known.architectures or not family.architectures:
        raise ValueError(f"model_type must be one that no family has, got {family.model_type!r}")
    if shared := sorted(set(known.architectures) & set(family.architectures)):
        raise ValueError(f"architectures must be ones that no family has, got {shared}")


def auto_class(family: Family) -> Any:
    """Return the Auto class of transformers that loads a family."""
    return getattr(transformers, family.auto_class)


def load_model(checkpoint: str | Path, **options: Any) -> Any:
    """Load a model of any family, by the Auto class of its family; `options` are of `from_pretrained`.

    Raises:
        FileNotFoundError: if a file of its weights is missing.
        ValueError: if it is of no family, if the index of its weights names none, if a weight is missing, or as
            `check_loading`.
    """
    check_loading(options)
    if Path(checkpoint).is_dir():
        find_weights(Path(checkpoint))  # raises for files of which transformers would load nothing
    return auto_class(read_family(checkpoint, **options)).from_pretrained(checkpoint, **options)


def check_loading(options: Mapping[str, Any]) -> None:
    """Check the options of `from_pretrained` that name a dtype or a device, for which torch's errors name no option.

    Raises:
        ValueError: for a dtype that is none of weights, or a device that this machine does not have.
    """
    dtype = options.get("dtype")
    if isinstance(dtype, str) and dtype != "auto":
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype) or not named.is_floating_point:
            raise ValueError(f"dtype must be auto or a floating point dtype, such as bfloat16, got {dtype!r}")
    device = options.get("device_map")
    if isinstance(device, str) and device not in _STRATEGIES:
        try:
            torch.empty(0, device=device)
        except (AssertionError, ImportError, RuntimeError) as error:  # the former two of a build without such devices
            wanted = f"one of {', '.join(_STRATEGIES)}, or a device of this machine"
            raise ValueError(f"device_map must be {wanted}, got {device!r}: {str(error).splitlines()[0]}") from error


def read_family(checkpoint: str | Path, **options: Any) -> Family:
    """Return the family of a checkpoint, of which its configuration alone is read; arguments as in `load_model`.

    Raises:
        ValueError: if it is of no family.
    """
    return family_of(read_config(checkpoint, **options))


def read_config(checkpoint: str | Path, **options: Any) -> Any:
    """Read the configuration of a checkpoint; low-rank updates have that of the base that they name.

    Args:
        checkpoint: folder or Hub id.
        options: of `from_pretrained`.

    Raises:
        FileNotFoundError, ValueError: as `config_of`.
    """
    checkpoint = str(checkpoint)
    place = {name: options[name] for name in _OF_CONFIGURATIONS if name in options}
    if (Path(checkpoint) / "config.json").is_file():
        return config_of(checkpoint, **place)
    of_updates = {**place, **(options.get("adapter_kwargs") or {})}
    of_updates.pop("trust_remote_code", None)
    updates = find_adapter_config_file(checkpoint, **of_updates)
    if updates is None:
        return config_of(checkpoint, **place)
    settings = read_json_object(updates, base_model_name_or_path=str)
    place["revision"] = settings.get("revision")
    return config_of(settings["base_model_name_or_path"], **place)


def config_of(checkpoint: str | Path, **options: Any) -> Any:
    """Read the configuration that a checkpoint itself holds; arguments as in `read_config`.

    Raises:
        FileNotFoundError: if it has none, or is not there.
        ValueError: if transformers does not know it.
    """
    wanted = f"a model must be a folder or a Hub id with a configuration, got {checkpoint}"
    try:
        return AutoConfig.from_pretrained(str(checkpoint), **options)
    except OSError as error:
        raise FileNotFoundError(f"{wanted}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{wanted}: {error}") from error


def unwrapped_name(name: str) -> str:
    """Return the name of a parameter in the bare model, for its name in a wrapped or a PEFT model."""
    words = [word for word in name.split(".") if word not in _WRAPPERS]
    return ".".join(words).removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")


def _listed(prefixes: Prefixes) -> tuple[str, ...]:
    if isinstance(prefixes, str):
        return (prefixes,)
    return prefixes


def _first_with(groups: Mapping[str, Prefixes], name: str) -> str | None:
    for group, prefixes in groups.items():
        if name.startswith(prefixes):
            return group
    return None
