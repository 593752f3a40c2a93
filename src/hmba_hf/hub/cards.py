"""The card of a checkpoint, composed from the model, its training and stored runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from PIL import Image

from ..evaluation.results import format_versions
from ..families import family_of
from ..installation import how_to_install
from ..repositories import CARD_FILE, split_revision
from .stored_runs import StoredRun

PICTURE_FILE = "example.png"
PICTURE_OF_VERSION_0_1 = "example_answer.png"
RELATIONS = ("adapter", "finetune", "merge", "quantized")
_MICRO_WORLD = "micro-world"
_DRAWN = (_MICRO_WORLD, "micro-actions", "micro-questions", "micro-driving")


@dataclass(frozen=True)
class CardDetails:
    """What a card holds beside the model and its results.

    Args:
        license: of the weights, as the Hub names it, such as `apache-2.0` or `llama2`.
        training: options of training by their names, as `finetune` stores them in `training_arguments.json`.
        environment: versions of the packages of training.
        origin: how it was made where no training made it, in a sentence or two.
        datasets: training data, Hub ids (also `org/drama@v1`) or names; those of `training` when absent.
        base_model: Hub ids of its parents; those that the model records when absent.
        base_model_relation: `finetune`, `adapter`, `merge` or `quantized`.
        picture: of a prediction, as its task draws it; one that you may publish.
        tags: more of them.
    """

    license: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    origin: str | None = None
    datasets: Sequence[str] = ()
    base_model: Sequence[str] = ()
    base_model_relation: str | None = None
    picture: Image.Image | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.base_model_relation not in (None, *RELATIONS):
            raise ValueError(f"base_model_relation must be one of {RELATIONS}, got {self.base_model_relation!r}")

    @property
    def learned_from(self) -> list[str]:
        """Names of its training data: Hub ids as they are, folders by their last name."""
        names = []
        for name in _listed(self.datasets or self.training.get("dataset_name") or ()):
            if name != _MICRO_WORLD and not _is_hub_id(split_revision(name)[0]):
                name = Path(name).name
            names.append(name)
        return names


# The names of these details in transformers.
_OTHER_NAMES = {"finetuned_from": "base_model", "dataset_tags": "datasets"}


def card_details(given: Mapping[str, Any]) -> dict[str, Any]:
    """Translate arguments of transformers' `create_model_card` into those of `CardDetails`.

    Raises:
        ValueError: for one that is no detail, as a card of this package names its language, model and task itself.
    """
    known = {detail.name for detail in fields(CardDetails)}
    named = {}
    for name, value in given.items():
        if value is not None:
            named[_OTHER_NAMES.get(name, name)] = value
    unknown = sorted(named.keys() - known)
    if unknown:
        raise ValueError(f"details of a card must be of {sorted(known | _OTHER_NAMES.keys())}, got {unknown}")
    for name in ("base_model", "datasets", "tags"):
        if name in named:
            named[name] = _listed(named[name])
    return named


@dataclass(frozen=True)
class Parents:
    """What a model was made from.

    Args:
        names: Hub ids.
        relation: how.
        revision: commit of the only one, where it is recorded.
    """

    names: list[str]
    relation: str | None = None
    revision: str | None = None


def compose_card(
    model: Any,
    details: CardDetails,
    runs: Sequence[StoredRun] = (),
    repo_id: str = "this-folder",
    revision: str | None = None,
) -> ModelCard:
    """Fill the template of a model's family.

    Args:
        model: a model of this package, or a `PeftModel` around one.
        runs: with the scores of the card.
        repo_id: repository of the checkpoint, or its folder.
        revision: commit that holds the checkpoint; a card cannot name the commit that it comes with.

    Raises:
        ValueError: if the model is of no family that has a template.
    """
    parents = find_parents(model, details, repo_id)
    learned_from = details.learned_from
    family = family_of(model)
    results = []
    seen = list(learned_from)
    for run in runs:
        results += run.results
        seen.append(run.metrics["dataset"])
    for result in results:
        result.task_type = family.results_tag or result.task_type
    is_drawn = any(drawn in name for name in seen for drawn in _DRAWN)
    name = repo_id.rpartition("/")[2]
    data = ModelCardData(
        language="en",
        license=details.license,
        library_name="peft" if is_adapter(model) else "transformers",
        pipeline_tag=family.pipeline_tag,
        base_model=parents.names or None,
        base_model_relation=parents.relation if parents.names else None,
        datasets=_hub_datasets(learned_from) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name,
        eval_results=results or None,
        tags=_tags(model, details, is_drawn),
    )
    return ModelCard.from_template(
        data,
        template_str=_template(model),
        name=name,
        repo_id=repo_id,
        revision=revision,
        installation=how_to_install("train" if is_adapter(model) else None),
        is_adapter=is_adapter(model),
        is_drawn=is_drawn,
        parents=parents,
        config=_config(model),
        details=details,
        learned_from=learned_from,
        training=_table(details.training),
        environment=format_versions(details.environment),
        picture=PICTURE_FILE if details.picture is not None else None,
        runs=[{"run": run, "results": run.results} for run in runs],
    )


def _hub_datasets(names: Sequence[str]) -> list[str]:
    """Return the Hub ids among names of datasets, without their revisions, each once."""
    datasets = []
    for name in names:
        dataset, _ = split_revision(name)
        if _is_hub_id(dataset) and dataset not in datasets:
            datasets.append(dataset)
    return datasets


def is_adapter(model: Any) -> bool:
    """Return whether a model holds low-rank updates, whose checkpoint holds them alone."""
    return bool(getattr(model, "peft_config", None))


def find_parents(model: Any, details: CardDetails, repo_id: str | None = None) -> Parents:
    """Return the parents of a model, from `details`, else from the records of the model or its training.

    Args:
        repo_id: of the model itself, which is no parent when it is pushed there again.

    Raises:
        ValueError: if there are several low-rank updates, of which a checkpoint holds one.
    """
    if details.base_model:
        return Parents(list(details.base_model), details.base_model_relation or "finetune")
    if is_adapter(model):
        if [*model.peft_config] != ["default"]:
            raise ValueError(f"low-rank updates must have the one name 'default', got {[*model.peft_config]}")
        settings = model.peft_config["default"]
        base = settings.base_model_name_or_path or _config(model).name_or_path
        names = [base] if _is_hub_id(base) else []
        return Parents(names, "adapter", settings.revision)
    config = _config(model)
    trained_from = details.training.get("model", details.training.get("model_name_or_path"))  # as 0.1 names it
    for name in (config.name_or_path, trained_from):
        if _is_hub_id(name) and name != repo_id:
            return Parents([str(name)], "finetune")
    names = []
    for part in ("vision_config", "text_config", "base_config"):
        name = getattr(getattr(config, part, None), "name_or_path", None)
        if _is_hub_id(name) and name not in names:
            names.append(name)
    return Parents(names, "finetune")


def _config(model: Any) -> Any:
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).config


def _template(model: Any) -> str:
    family = family_of(model)
    path = files("hmba_hf") / "model_cards" / family.card  # an absolute `card` replaces the folder
    return path.read_text(encoding="utf-8")


def tagged_card(
    repo_id: str, tags: str | Sequence[str], revision: str | None = None, token: str | bool | None = None
) -> str:
    """Return the card of a repository with more tags, or a card of tags alone where there is none.

    Args:
        revision: branch; a new one begins at `main`.
        token: instead of that of `hf auth login` or `HF_TOKEN`.
    """
    api = HfApi(token=token)
    branch = revision if revision is not None and api.revision_exists(repo_id, revision) else None
    card = ModelCard("---\ntags: []\n---\n")
    if api.file_exists(repo_id, CARD_FILE, revision=branch):
        held = api.hf_hub_download(repo_id, CARD_FILE, revision=branch)
        card = ModelCard(Path(held).read_text(encoding="utf-8"))
    data: Any = card.data
    data.tags = list(dict.fromkeys([*(data.tags or []), *_listed(tags)]))
    return str(card)


def _tags(model: Any, details: CardDetails, is_drawn: bool) -> list[str]:
    family = family_of(model)
    tags = [family.model_type, *family.tags, "custom_code"]
    tags += ["lora"] if is_adapter(model) else []
    tags += [_MICRO_WORLD] if is_drawn else []
    tags += getattr(model, "model_tags", None) or []  # by `add_model_tags`
    return list(dict.fromkeys([*tags, *details.tags]))


def _table(options: Mapping[str, Any]) -> dict[str, str]:
    """Write options as cells of a table, without those that are not set and without the parents of folders."""
    cells = {}
    for name, value in options.items():
        if value is None or value == [] or value == {}:
            continue
        values = []
        for one in _listed(value):
            if isinstance(one, str) and Path(one).is_absolute():
                one = Path(one).name
            values.append(str(one))
        cells[name] = ", ".join(values).replace("|", "\\|")
    return cells


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_hub_id(name: Any) -> bool:
    """Return whether a name is that of a repository on the Hub, not a local folder or a bare name."""
    if not isinstance(name, str) or "/" not in name or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
