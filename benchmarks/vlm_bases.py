"""On which vision-language models of transformers does H-MBA work?

    python benchmarks/vlm_bases.py [--families qwen3_vl llava_next] [--output_dir runs/vlm_bases]

Tried are all families of the installed transformers whose models take encoded pictures in the place of pixels, each
as a tiny random model. Its configuration, pictures and prompts are those of the project's tests where they have it
(`sizes` is "tests"). Others get the defaults of their class, shrunk, with random pictures in the first form that their
encoder takes, and a prompt of token ids.

A family works if three things hold. With a closed gate, logits and greedy answers about a clip of three frames are the
base's own about the current one, to the bit. With an open gate, logits depend on the earlier frames. Gradients reach
the adapter. A family is refused if the model says in a sentence what the base lacks.
"""

import argparse
import importlib
import inspect
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import hardware, markdown, save
from torch import Tensor
from transformers import AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from vlm_configs import shrunk_config
from vlm_pictures import picture_forms

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import hmba_hf  # noqa: E402
from hmba_hf import HMBAVLMConfig, HMBAVLMForConditionalGeneration  # noqa: E402
from tiny_models import open_adapter  # noqa: E402
from tiny_vlm_bases import BASES, tiny_vlm  # noqa: E402

MODELS = Path(transformers.__file__).parent / "models"
DOOR = "mm_encoder_outputs"
WORKS = "works"
REFUSED = "refused"
FAILS = "fails"
NOT_TRIED = "not tried"
# Families with the word in their code, but with no model that answers about pictures and takes them encoded.
NO_ANSWERS = {
    "embedding_gemma2": "gives embeddings, no answers",
    "florence2": "an encoder of texts reads its pictures, and its forward does not take them encoded",
    "glm_image": "draws pictures; not among AutoModelForImageTextToText",
    "pe_audio_video": "compares sounds, videos and texts; no answers",
    "t5gemma2": "an encoder of texts reads its pictures, and only that takes them encoded",
}


@dataclass
class Outcome:
    """A row of the table."""

    family: str
    model_type: str
    sizes: str = ""  # where its configuration is from
    rows: str = ""  # the container of a picture's rows
    inputs: str = ""  # about pictures
    result: str = NOT_TRIED
    why: str = ""


@dataclass
class Case:
    """A base and a clip for it: a prompt about the current frame, and the earlier ones."""

    base: Any
    prompt: dict[str, Tensor]
    past: dict[str, Tensor]


def families() -> list[str]:
    """List the families of transformers whose code takes encoded pictures or sounds."""
    found = set()
    for path in MODELS.glob("*/modeling_*.py"):
        if DOOR in path.read_text():
            found.add(path.parent.name)
    return sorted(found)


def answering_types(family: str) -> list[str]:
    """List the model types of a family whose class of `AutoModelForImageTextToText` has the door."""
    found = []
    modules = [path.stem for path in (MODELS / family).glob("modeling_*.py")]
    for model_type, class_name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items():
        for module in modules:
            code = importlib.import_module(f"transformers.models.{family}.{module}")
            model_class = getattr(code, class_name, None)
            is_own = model_class is not None and model_class.__module__ == code.__name__
            if is_own and DOOR in inspect.signature(model_class.forward).parameters:
                found.append(model_type)
    return found


def without_the_door() -> list[str]:
    """List the other model types of `AutoModelForImageTextToText`."""
    with_it = {model_type for family in families() for model_type in answering_types(family)}
    return sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys() - with_it)


def try_family(family: str) -> Iterator[Outcome]:
    """Try each model type of a family, or say why there is none."""
    types = answering_types(family)
    if not types:
        yield Outcome(
            family, "", result=REFUSED, why=NO_ANSWERS.get(family, "no class answers about encoded pictures")
        )
    for model_type in types:
        outcome = Outcome(family, model_type)
        try:
            try_type(outcome)
        except Exception as error:  # what other people's classes raise is what the table tells
            if is_refusal(error):
                outcome.result = REFUSED
            outcome.why = reason(error)
        yield outcome


def is_refusal(error: Exception) -> bool:
    """Whether an error is a sentence of this project."""
    module = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, ValueError) and Path(hmba_hf.__file__).parent in Path(module).parents


def reason(error: Exception) -> str:
    """Return an error as one short line."""
    text = " ".join(str(error).split())
    if is_refusal(error):
        return text
    if isinstance(error, ImportError):
        package = re.search(r"requires the (\w+) library|No module named '(\w+)'", text)
        return f"needs the package {package[1] or package[2]}" if package else text
    return f"{type(error).__name__}: {text[:120]}"


def try_type(outcome: Outcome) -> None:
    """Try one model type; an error that leaves this function goes with the result and step that `outcome` has then."""
    torch.manual_seed(0)
    outcome.sizes = "tests" if outcome.model_type in BASES else "shrunk"
    case = tiny_case(outcome.model_type) if outcome.model_type in BASES else shrunk_case(outcome)
    outcome.result = FAILS
    model = HMBAVLMForConditionalGeneration(HMBAVLMConfig(base_config=case.base.config)).eval()
    model.model.base = case.base
    if not case.past:
        add_pictures(case, model)
    outcome.inputs = ", ".join(case.past)
    with torch.no_grad():
        rows = case.base.base_model.get_image_features(**pictures_of(case), return_dict=True).pooler_output
    outcome.rows = "no pooler_output" if rows is None else type(rows).__name__
    outcome.why = check(case, model)
    outcome.result = FAILS if outcome.why else WORKS


def tiny_case(model_type: str) -> Case:
    """Take a base of the tests, with its own processor's inputs."""
    vlm = tiny_vlm(model_type)
    return Case(vlm.model, vlm.inputs(), vlm.pictures(1, 2))


def shrunk_case(outcome: Outcome) -> Case:
    """Build a base from shrunk defaults, as yet without inputs."""
    base = AutoModelForImageTextToText.from_config(shrunk_config(outcome.model_type)).eval()
    for weight in base.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)
    return Case(base, {}, {})


def add_pictures(case: Case, model: Any) -> None:
    """Draw pictures in the first form that the base encodes, and write a prompt about one."""
    last: Exception | None = None
    for draw in picture_forms(case.base):
        current, past = draw(1), draw(2)
        try:
            with torch.no_grad():
                case.base.base_model.get_image_features(**current, return_dict=True)
                case.base.base_model.get_image_features(**past, return_dict=True)
        except Exception as error:  # this form does not fit
            last = error
            continue
        rows = count_rows(model, current)
        if count_rows(model, past) == 2 * rows:
            case.prompt = current | write_prompt(case.base, rows)
            case.past = past
            return
    raise RuntimeError(f"no form of pictures fits; the last said {last}")


def count_rows(model: Any, pictures: dict[str, Tensor]) -> int:
    """Count the rows that the language model reads of pictures."""
    with torch.no_grad():
        return sum(map(len, model.get_frame_features(**pictures)))


def write_prompt(base: Any, rows: int) -> dict[str, Tensor]:
    """Write a prompt of some tokens, a picture of so many rows, and some more tokens."""
    config = base.config
    before, behind = [], []
    for name in ("vision_start_token_id", "image_start_token_id", "boi_token_id"):
        if isinstance(getattr(config, name, None), int):
            before = [getattr(config, name)]
    for name in ("vision_end_token_id", "image_end_token_id", "eoi_token_id"):
        if isinstance(getattr(config, name, None), int):
            behind = [getattr(config, name)]
    ids = torch.tensor([[31, 32, *before, *[config.image_token_id] * rows, *behind, 33, 34, 35]])
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    taken = inspect.signature(base.forward).parameters
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in taken:
            prompt[name] = (ids == config.image_token_id).long()
    return prompt


def pictures_of(case: Case) -> dict[str, Tensor]:
    """Return the inputs of a prompt that are about its picture."""
    return {name: case.prompt[name] for name in case.past}


def clip_of(case: Case, past: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs about a clip with these earlier frames."""
    tokens = (case.prompt["input_ids"] == case.base.config.image_token_id).sum(dim=1)
    earlier = {f"past_{name}": value for name, value in past.items()}
    return case.prompt | earlier | {"past_lengths": torch.tensor([2]), "picture_tokens": tokens}


def check(case: Case, model: Any) -> str:
    """Return what does not hold on a base, or nothing."""
    greedy = {"max_new_tokens": 4, "do_sample": False}
    clip = clip_of(case, case.past)
    with torch.no_grad():
        own = case.base(**case.prompt).logits
        if not torch.equal(model(**clip).logits, own):
            return "logits of a closed gate are not the base's own"
    if not torch.equal(model.generate(**clip, **greedy), case.base.generate(**case.prompt, **greedy)):
        return "answers of a closed gate are not the base's own"
    open_adapter(model.model.temporal_adapter)
    logits = model(**clip).logits
    other = {name: pixels.flip(0) + 1 if pixels.is_floating_point() else pixels for name, pixels in case.past.items()}
    with torch.no_grad():
        if torch.equal(model(**clip_of(case, other)).logits, logits):
            return "logits do not depend on earlier frames"
    logits.sum().backward()
    gate = model.model.temporal_adapter.gate.grad
    return "" if gate is not None and gate.any() else "no gradient reaches the adapter"


def describe(outcome: Outcome) -> dict[str, str]:
    """Return the row of a family that works."""
    return {
        "family": outcome.family,
        "model type": outcome.model_type,
        "sizes": outcome.sizes,
        "rows of pictures": outcome.rows,
        "inputs about pictures": outcome.inputs,
    }


def explain(outcome: Outcome) -> dict[str, str]:
    """Return the row of a family that does not work."""
    return {
        "family": outcome.family,
        "model type": outcome.model_type,
        "result": outcome.result,
        "why": outcome.why,
    }


def main() -> None:
    """Try families, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", help="folders of transformers.models; all with the door if absent")
    parser.add_argument("--output_dir", help="folder for results.json")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # transformers tells of kernels that are not installed
    torch.set_num_threads(1)
    print(hardware(), flush=True)
    outcomes = []
    for family in args.families or families():
        for outcome in try_family(family):
            print(f"{outcome.model_type or family}: {outcome.result} {outcome.why}", flush=True)
            outcomes.append(outcome)
    print(markdown([describe(outcome) for outcome in outcomes if outcome.result == WORKS]))
    print()
    print(markdown([explain(outcome) for outcome in outcomes if outcome.result != WORKS]))
    for result in (WORKS, REFUSED, FAILS, NOT_TRIED):
        print(f"{result}: {sum(outcome.result == result for outcome in outcomes)} of {len(outcomes)}")
    if not args.families:
        print(f"without the door, so refused: {', '.join(without_the_door())}")
    save(args.output_dir, {"outcomes": [asdict(outcome) for outcome in outcomes]}, {})


if __name__ == "__main__":
    main()
