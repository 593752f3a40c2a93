"""Dialects of box text: how vision-language models have learned to write boxes, and which base writes which way.

A processor has one by its name, `boxes_dialect`, and calls its methods with the size of the original frame.
"""

from typing import Any, NamedTuple

from .parsing_box_dialects import BoxDialect, JsonDialect, LocDialect, MarkedDialect, SquareDialect
from .parsing_box_forms import BRACKETS, CORNERS, LOC

_JSON_QUESTION = '{{question}} Answer with boxes in JSON, such as [{{{{"{key}": [{order}], "label": "..."}}}}].'
_XY = "x1, y1, x2, y2"
_ROWS = (
    SquareDialect("unit_square", "0 to 1 of the frame padded to a square, in brackets", BRACKETS, limit=1),
    JsonDialect(
        "thousand",
        "0 to 1000 of the frame, in JSON with 'bbox_2d'",
        "bbox_2d",
        limit=1000,
        asking=_JSON_QUESTION.format(key="bbox_2d", order=_XY),
    ),
    JsonDialect(
        "pixels",
        "pixels of the resized picture, in JSON with 'bbox_2d'",
        "bbox_2d",
        limit=None,
        asking=_JSON_QUESTION.format(key="bbox_2d", order=_XY),
    ),
    JsonDialect(
        "thousand_yx",
        "0 to 1000 of the frame with y first, in JSON with 'box_2d'",
        "box_2d",
        limit=1000,
        y_first=True,
        asking=_JSON_QUESTION.format(key="box_2d", order="y1, x1, y2, x2"),
    ),
    LocDialect(
        "loc",
        "<loc0000> to <loc1023> of the frame with y first, the label behind",
        LOC,
        limit=1024,
        y_first=True,
        largest=1023,
        asking="detect {question}",
    ),
    MarkedDialect(
        "ref_box",
        "0 to 1000 of the frame, as <ref>label</ref><box>[[x1, y1, x2, y2]]</box>",
        BRACKETS,
        limit=1000,
        marks=("<box>", "</box>"),
        label_marks=("<ref>", "</ref>"),
    ),
    MarkedDialect(
        "begin_of_box",
        "0 to 1000 of the frame, as <|begin_of_box|>[[x1,y1,x2,y2]]<|end_of_box|>",
        BRACKETS,
        limit=1000,
        marks=("<|begin_of_box|>", "<|end_of_box|>"),
        comma=",",
    ),
    MarkedDialect(
        "box_start",
        "0 to 1000 of the frame, as <|box_start|>(x1,y1),(x2,y2)<|box_end|>",
        CORNERS,
        limit=1000,
        marks=("<|box_start|>", "<|box_end|>"),
        label_marks=("<|object_ref_start|>", "<|object_ref_end|>"),
    ),
)
DIALECTS: dict[str, BoxDialect] = {dialect.name: dialect for dialect in _ROWS}


class BaseDialect(NamedTuple):
    """The dialect in which the models of one `model_type` were trained, and the source of it."""

    dialect: str
    source: str


_QWEN3 = BaseDialect("thousand", "github.com/QwenLM/Qwen3-VL, cookbooks/spatial_understanding.ipynb; same in Qwen3.5")
_GLM = BaseDialect("begin_of_box", "github.com/zai-org/GLM-V, skills/glmv-grounding")
_GEMINI = BaseDialect(
    "thousand_yx",
    "Gemini's: cloud.google.com/vertex-ai, bounding-box-detection; huggingface.co/google/gemma-3-4b-it, discussion 38",
)
# No row for a type whose models differ or do not say: llava, llava_onevision, lfm2_vl, smolvlm, idefics3, ...
BASES = {
    "qwen2_vl": BaseDialect("box_start", "Qwen2-VL, arXiv 2409.12191"),
    "qwen2_5_vl": BaseDialect("pixels", "github.com/QwenLM/Qwen3-VL/issues/931"),
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
    "glm4v": _GLM,
    "glm4v_moe": _GLM,
    "glm46v": _GLM,
    "internvl": BaseDialect("ref_box", "internvl.readthedocs.io, get_started/chat_data_format"),
    "gemma3": _GEMINI,
    "gemma4": _GEMINI,
    "paligemma": BaseDialect("loc", "PaliGemma, arXiv 2407.07726; github.com/roboflow/supervision, from_paligemma"),
}


def find_dialect(name: str) -> BoxDialect:
    """Return the dialect of a name.

    Raises:
        ValueError: if there is none; it lists them.
    """
    if name not in DIALECTS:
        raise ValueError(f"boxes_dialect must be one of {list(DIALECTS)}, got {name!r}")
    return DIALECTS[name]


def dialect_of(base: Any) -> str:
    """Return the name of the dialect of a base.

    Args:
        base: its configuration or `model_type`.

    Raises:
        ValueError: if it is not known, because models of that type differ or none was looked at.
    """
    model_type = base if isinstance(base, str) else base.model_type
    if model_type not in BASES:
        raise ValueError(
            f"boxes_dialect must be named for a base of type {model_type!r}, whose boxes are not known: one of "
            f"{list(DIALECTS)}; known are the types {list(BASES)}"
        )
    return BASES[model_type].dialect


__all__ = ["BASES", "DIALECTS", "BaseDialect", "BoxDialect", "dialect_of", "find_dialect"]
