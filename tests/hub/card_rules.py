"""What the Hub asks of the metadata of a card: an approximation of its `validate-yaml`."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", re.DOTALL)
REPO_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[\w-]+)?|multilingual|code")
LICENSES = (
    "afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear cc cc-by-2.0 cc-by-3.0 "
    "cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc0-1.0 cdla-permissive-2.0 creativeml-openrail-m ecl-2.0 epl-2.0 etalab-2.0 eupl-1.1 gemma gpl "
    "gpl-2.0 gpl-3.0 isc lgpl lgpl-3.0 llama2 llama3 llama3.1 llama3.2 mit mpl-2.0 odbl odc-by openrail openrail++ "
    "osl-3.0 pddl postgresql unknown unlicense wtfpl zlib other"
).split()
TASKS = (
    "any-to-any audio-classification automatic-speech-recognition depth-estimation document-question-answering "
    "feature-extraction fill-mask image-classification image-feature-extraction image-segmentation image-text-to-text "
    "image-to-text keypoint-detection object-detection other question-answering reinforcement-learning robotics "
    "sentence-similarity summarization text-classification text-generation text-to-image text-to-video translation "
    "video-classification video-text-to-text visual-question-answering zero-shot-image-classification "
    "zero-shot-object-detection"
).split()
RELATIONS = ("adapter", "finetune", "merge", "quantized")
LISTS_OF_TEXT = ("tags", "datasets", "metrics", "base_model", "language", "task_categories", "size_categories")


def card_metadata(content: str) -> dict[str, Any] | None:
    """Read the metadata of a card; none if there are none or they are not a mapping."""
    found = FRONT_MATTER.match(content)
    try:
        metadata = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    return metadata if isinstance(metadata, dict) else None


def problems(content: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Validate a card.

    Returns:
        errors and warnings.
    """
    found = FRONT_MATTER.match(content)
    if not found or not found[1].strip():
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"YAML parse error: {error}"], []
    if not isinstance(metadata, dict):
        return ["YAML metadata must be an object"], []
    return [*field_errors(metadata, repo_type), *result_errors(metadata.get("model-index"))], []


def field_errors(metadata: dict[str, Any], repo_type: str) -> Iterator[str]:
    """Check single fields."""
    for name in LISTS_OF_TEXT:
        values = texts(metadata.get(name, []))
        if not all(isinstance(value, str) for value in values):
            yield f'"{name}" must be a string or an array of strings'
    for name in ("base_model", "datasets"):
        for value in texts(metadata.get(name, [])):
            if not REPO_ID.fullmatch(str(value)):
                yield f'"{name}" with value "{value}" is not valid: it must be the id of a repository'
    for value in texts(metadata.get("language", [])):
        if not LANGUAGE.fullmatch(str(value)):
            yield f'"language" with value "{value}" must be an ISO 639 code'
    for value in texts(metadata.get("license", [])):
        if value not in LICENSES:
            yield f'"license" must be one of {LICENSES}, not {value!r}'
    for name, allowed in (("pipeline_tag", TASKS), ("base_model_relation", RELATIONS)):
        if name in metadata and metadata[name] not in allowed:
            yield f'"{name}" must be one of {allowed}, not {metadata[name]!r}'
    if repo_type == "dataset":
        for value in texts(metadata.get("task_categories", [])):
            if value not in TASKS:
                yield f'"task_categories" with value {value!r} must be one of {TASKS}'


def result_errors(index: Any) -> Iterator[str]:
    """Check the results of `model-index`."""
    if index is None:
        return
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for i, model in enumerate(index):
        if not model.get("name"):
            yield f'"model-index[{i}].name" is required'
        for j, result in enumerate(model.get("results") or []):
            where = f"model-index[{i}].results[{j}]"
            wanted = {"task": ("type",), "dataset": ("type", "name")}
            for part, keys in wanted.items():
                yield from (f'"{where}.{part}.{key}" is required' for key in keys if not result.get(part, {}).get(key))
            if not result.get("metrics"):
                yield f'"{where}.metrics" is required'
            for k, metric in enumerate(result.get("metrics") or []):
                yield from (
                    f'"{where}.metrics[{k}].{key}" is required' for key in ("type", "value") if key not in metric
                )


def texts(value: Any) -> list[Any]:
    """Read a field that may be one text or a list."""
    return value if isinstance(value, list) else [value]
