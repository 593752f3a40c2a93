"""Strict tables from the tensor names of foreign checkpoints to this package's, and back.

A table is a list of rules; the first one that fits a name decides. A conversion stops at a name that fits no rule, at
two tensors for one, at a missing tensor, and at a wrong shape or dtype.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ADAPTER = "model.temporal_adapter."
TOWER = "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
PREFIXES = ("model.hmba.", "model.kbmamba.")  # of the public code, and of the authors' own
# The released adapter holds one module under seven names.
NORM_NAMES = (
    "layer_norm",
    "layer_1.1",
    "reverse_layer_1.1",
    "layer_2.1",
    "reverse_layer_2.1",
    "layer_3.1",
    "reverse_layer_3.1",
)
# Parts that the released forward never reads, or whose result it drops.
UNUSED_PARTS = (
    "cls_token",
    "v1",
    "mamba_block.*",
    "latentMB.*",
    "layer_1.0.*",
    "reverse_layer_1.0.*",
    "layer_3.0.*",
    "reverse_layer_3.0.*",
)
# Places of the released adapter's modules in the released preset.
RELEASED_MODULES: dict[str, tuple[str, ...]] = {
    "t_mamba": ("context.mixers.divided_time.forward_mixer",),
    "layer_2.0": ("context.mixers.space.forward_mixer",),
    "reverse_layer_2.0": ("context.mixers.space.reverse_mixer",),
    "fc_q": ("query.fusion.query_proj",),
}
RELEASED_NORMS: tuple[str, ...] = ("context.norms.shared",)
# Their places in a paper preset, which has a module of its own wherever the released code shares one.
PAPER_NORMS = (
    "context.norms.divided_space_time_stride_1",
    "context.norms.divided_space_time_stride_2",
    "context.norms.joint_space_time_stride_1",
    "context.norms.joint_space_time_stride_2",
)
PAPER_MODULES: dict[str, tuple[str, ...]] = {
    "t_mamba": ("context.mixers.divided_time.forward_mixer",),
    "layer_2.0": (
        "context.mixers.divided_space.forward_mixer",
        "context.mixers.joint_stride_1.forward_mixer",
        "context.mixers.joint_stride_2.forward_mixer",
    ),
    "reverse_layer_2.0": (
        "context.mixers.divided_space.reverse_mixer",
        "context.mixers.joint_stride_1.reverse_mixer",
        "context.mixers.joint_stride_2.reverse_mixer",
    ),
}
# Decay rates and skips of Mamba, which may be float32 beside any dtype.
WIDE_NAMES = (".A_log", ".D", ".A_b_log", ".D_b")


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor, known before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Rule:
    """One line of a table; `*` in `original` stands for a part of a name, which replaces `*` in `ours`.

    Args:
        original: name in the foreign checkpoint.
        ours: names here, more than one for a tensor that starts several; none for an unused one.
        row: its row in ours, if several originals are the rows of one tensor.
        leading_axis: whether the original has one more axis, of size one, in front.
        is_alias: whether it may be one of several names of the same tensor, which must then be equal.
    """

    original: str
    ours: tuple[str, ...] = ()
    row: int | None = None
    leading_axis: bool = False
    is_alias: bool = False

    def match(self, name: str) -> list[str] | None:
        """Return the names here of an original, or `None` if the rule does not fit."""
        part = _fits(self.original, name)
        if part is None:
            return None
        return [our.replace("*", part) for our in self.ours]

    def makes(self, name: str) -> bool:
        """Return whether a tensor here may come from this rule."""
        return any(_fits(our, name) is not None for our in self.ours)

    def original_name(self, name: str) -> str | None:
        """Return the original name of a tensor here, or `None` if the rule does not fit."""
        if not self.ours:
            return None
        part = _fits(self.ours[0], name)
        if part is None:
            return None
        return self.original.replace("*", part)

    def shape_here(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that an original of this shape has here."""
        if self.leading_axis and shape[:1] == (1,):
            return shape[1:]
        return shape

    def bring(self, original: Tensor) -> Tensor:
        """Return an original in the shape that it has here."""
        if self.leading_axis:
            return original[0]
        return original

    def take_back(self, ours: Tensor) -> Tensor:
        """Return the original of a tensor here."""
        if self.row is not None:
            ours = ours[self.row : self.row + 1]
        if self.leading_axis:
            ours = ours[None]
        return ours


class Origin(NamedTuple):
    """An original tensor of one of ours."""

    name: str
    rule: Rule


class Renaming(NamedTuple):
    """The origins of each tensor here, and the unused originals."""

    origins: dict[str, list[Origin]]
    unused: list[str]

    def make(self, name: str, read: Mapping[str, Tensor]) -> Tensor:
        """Build a tensor from its originals.

        Raises:
            ValueError: if aliases of one tensor hold different values.
        """
        origins = self.origins[name]
        tensors = [origin.rule.bring(read[origin.name]) for origin in origins]
        if origins[0].rule.row is not None:
            return torch.cat(tensors)
        for origin, tensor in zip(origins, tensors, strict=True):
            if not torch.equal(tensor, tensors[0]):
                raise ValueError(f"{origin.name} must equal its alias {origins[0].name}, got other values")
        return tensors[0]


def _fits(pattern: str, name: str) -> str | None:
    """Return the part of a fitting name for which `*` stands, the empty string if the pattern has none."""
    before, star, after = pattern.partition("*")
    if not star:
        return "" if name == pattern else None
    found = re.fullmatch(f"{re.escape(before)}(.+){re.escape(after)}", name)
    return found[1] if found else None


def language_model_rules() -> list[Rule]:
    """Return the rules of a Llama inside a foreign checkpoint, which come last in a table."""
    return [
        Rule("model.layers.*.rotary_emb.inv_freq"),
        Rule("model.layers.*", ("model.language_model.layers.*",)),
        Rule("model.embed_tokens.weight", ("model.language_model.embed_tokens.weight",)),
        Rule("model.norm.weight", ("model.language_model.norm.weight",)),
        Rule("lm_head.weight", ("lm_head.weight",)),
    ]


def adapter_rules(prefix: str = "model.hmba.", preset: str = "released", ours: str = ADAPTER) -> list[Rule]:
    """Return the rules of the released adapter.

    Args:
        prefix: of its names; `"model.kbmamba."` in the authors' own tree.
        preset: `"released"` for the same adapter here, `"paper"` for a paper preset that starts from it.
        ours: prefix of the names here.

    Source: Sranc3/H-MBA, `mamba_adaptation.py`.
    """
    if preset == "released":
        scales = f"{ours}query.fusion.context_scales"
        rules = [Rule(f"{prefix}v2", (scales,), row=0), Rule(f"{prefix}v3", (scales,), row=1)]
        modules = RELEASED_MODULES
        norms = RELEASED_NORMS
    else:
        rules = [Rule(f"{prefix}v2"), Rule(f"{prefix}v3"), Rule(f"{prefix}fc_q.*")]
        modules = PAPER_MODULES
        norms = PAPER_NORMS
    for name in UNUSED_PARTS:
        rules.append(Rule(f"{prefix}{name}"))
    table = f"{ours}context.temporal_position_embedding"
    rules.append(Rule(f"{prefix}time_embed", (table,), leading_axis=True))
    for name, places in modules.items():
        rules.append(Rule(f"{prefix}{name}.*", tuple(f"{ours}{place}.*" for place in places)))
    targets = tuple(f"{ours}{norm}.*" for norm in norms)
    for name in NORM_NAMES:
        rules.append(Rule(f"{prefix}{name}.*", targets, is_alias=True))
    return rules


def adapter_prefix(names: Iterable[str]) -> str | None:
    """Return the prefix of the adapter's names in a checkpoint of the released code, `None` without an adapter.

    Raises:
        ValueError: if there are two adapters.
    """
    found = {prefix for name in names for prefix in PREFIXES if name.startswith(prefix)}
    if len(found) > 1:
        raise ValueError(f"the checkpoint must have one adapter, got tensors of {sorted(found)}")
    return next(iter(found), None)


def shikra_rules(adapter_prefix: str = "model.hmba.", preset: str = "released") -> list[Rule]:
    """Return the table of Shikra and of H-MBA, which is Shikra with an adapter.

    Source: shikras/shikra and Sranc3/H-MBA, `shikra.py`.
    """
    return [
        *adapter_rules(adapter_prefix, preset),
        Rule("model.temporal.*"),  # three transformer layers that nothing calls
        Rule("model.mm_projector.*", ("model.multi_modal_projector.*",)),
        *language_model_rules(),
    ]


def llava_rules(has_two_layers: bool, wanted: Iterable[str]) -> list[Rule]:
    """Return the table of original LLaVA checkpoints.

    Args:
        has_two_layers: whether its projector has two.
        wanted: names of the tensors here.

    Source: haotian-liu/LLaVA, `llava_arch.py` and `multimodal_projector/builder.py`.
    """
    if has_two_layers:
        projector = [
            Rule("model.mm_projector.0.*", ("model.multi_modal_projector.linear_1.*",)),
            Rule("model.mm_projector.2.*", ("model.multi_modal_projector.linear_2.*",)),
        ]
    else:
        projector = [Rule("model.mm_projector.*", ("model.multi_modal_projector.*",))]
    return [
        *projector,
        Rule("model.image_newline"),
        *vision_tower_rules(wanted, "model.vision_tower.vision_tower."),
        *language_model_rules(),
    ]


def transformers_llava_rules(wanted: Iterable[str]) -> list[Rule]:
    """Return the table of LLaVA checkpoints in transformers' layout, in the names of today and of before 4.52.

    Args:
        wanted: names of the tensors here.

    Source: transformers, `conversion_mapping.py` and `models/llava/modeling_llava.py`.
    """
    rules = [Rule("image_newline"), Rule("model.image_newline")]
    for start in ("model.", ""):
        rules += [
            *vision_tower_rules(wanted, f"{start}vision_tower."),
            *vision_tower_rules(wanted, f"{start}image_tower."),  # of Video-LLaVA, which has another one for videos
            Rule(f"{start}video_tower.*"),
            Rule(f"{start}multi_modal_projector.*", ("model.multi_modal_projector.*",)),
        ]
    return rules + [
        Rule("model.language_model.*", ("model.language_model.*",)),
        Rule("language_model.lm_head.*", ("lm_head.*",)),
        Rule("language_model.model.layers.*.rotary_emb.inv_freq"),
        Rule("language_model.model.*", ("model.language_model.*",)),
        Rule("lm_head.*", ("lm_head.*",)),
    ]


def tied_head_rules(embeddings: str) -> list[Rule]:
    """Return the first rules for a model whose head is its embeddings, which some files hold twice.

    Args:
        embeddings: name of the embeddings here.
    """
    return [
        Rule("lm_head.weight", (embeddings,), is_alias=True),
        Rule("language_model.lm_head.weight", (embeddings,), is_alias=True),
    ]


def vision_tower_rules(wanted: Iterable[str], start: str = "") -> list[Rule]:
    """Return the table of a vision tower, by itself or in a vision-text model.

    Args:
        wanted: names of the tower's tensors here; some towers of transformers hold one more module than others.
        start: prefix of the original names.
    """
    inside = f"{TOWER}*"
    if any(name.startswith(f"{TOWER}vision_model.") for name in wanted):
        inside = f"{TOWER}vision_model.*"
    rules = [
        Rule(f"{start}vision_model.embeddings.position_ids"),
        Rule(f"{start}embeddings.position_ids"),
        Rule(f"{start}vision_model.*", (inside,)),
    ]
    if not start:
        rules += [
            Rule("text_model.*"),
            Rule("visual_projection.*"),
            Rule("text_projection.*"),
            Rule("logit_*"),
        ]
    return [*rules, Rule(f"{start}*", (f"{TOWER}*",))]


def plan_renaming(
    originals: Mapping[str, TensorSpec],
    rules: list[Rule],
    wanted: Mapping[str, TensorSpec],
    optional: Collection[str] = (),
) -> Renaming:
    """Find the origins of each wanted tensor.

    Args:
        originals: the tensors of the foreign checkpoint.
        rules: its table.
        wanted: the tensors of the result, all of them and no other.
        optional: those of them that may be missing.

    Raises:
        ValueError: if a tensor fits no rule or is not wanted, if two stand for one, if one is missing, or if a shape
            is wrong.
    """
    origins: dict[str, list[Origin]] = {}  # in the order of first originals: each file is read from start to end
    unused: list[str] = []
    for name in originals:
        rule, ours = _first_match(rules, name)
        if not ours:
            unused.append(name)
        for our in ours:
            if our not in wanted:
                raise ValueError(
                    f"tensors must be those of the model, got {name}, which would be {our}: it has none such"
                )
            origins.setdefault(our, []).append(Origin(name, rule))
    for name in wanted:
        if name not in origins and name not in optional:
            raise ValueError(f"the checkpoint must hold an origin of {name}, got {_listed(originals)}")
    for our, found in origins.items():
        _check_origins(our, found, originals, wanted=wanted[our].shape)
        for origin in found:
            dtype = originals[origin.name].dtype
            if not dtype.is_floating_point or dtype.itemsize < 2:
                raise ValueError(f"{origin.name} must be of real numbers of 16 bits or more, got {dtype}")
    return Renaming(origins, unused)


def rename_tensors(
    originals: Mapping[str, Tensor], rules: list[Rule], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename tensors in memory to those of `wanted`, which have the same shapes."""
    renaming = plan_renaming(tensor_specs(originals), rules, tensor_specs(wanted))
    return {name: renaming.make(name, originals) for name in renaming.origins}


def tensor_specs(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Return shape and dtype of tensors by name."""
    return {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def shape_of(specs: Mapping[str, TensorSpec], name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor.

    Raises:
        ValueError: if there is no such tensor, or if it has another number of axes.
    """
    if name not in specs:
        raise ValueError(f"the checkpoint must hold {name}, got none")
    shape = specs[name].shape
    if len(shape) != axes:
        raise ValueError(f"{name} must have {axes} axes, got {shape}")
    return shape


def single_dtype(originals: Mapping[str, TensorSpec], renaming: Renaming) -> torch.dtype:
    """Return the dtype of all used tensors; decay rates and skips of Mamba may be float32 beside any.

    Raises:
        ValueError: if there is more than one.
    """
    used: list[tuple[str, torch.dtype]] = []
    for origins in renaming.origins.values():
        for origin in origins:
            dtype = originals[origin.name].dtype
            if dtype != torch.float32 or not origin.name.endswith(WIDE_NAMES):
                used.append((origin.name, dtype))
    most = Counter(dtype for _, dtype in used).most_common(1)[0][0]
    for name, dtype in used:
        if dtype != most:
            raise ValueError(
                f"{name} must be {most} as most tensors are, got {dtype}: name a dtype to convert all to it"
            )
    return most


def plan_originals(ours: Iterable[str], rules: list[Rule]) -> dict[str, Origin]:
    """Find the names of tensors here in a foreign checkpoint, every alias among them.

    Returns:
        `{original name: (name here, rule)}`.

    Raises:
        ValueError: if a tensor has no name there.
    """
    found: dict[str, Origin] = {}
    for name in ours:
        names: dict[str, Rule] = {}
        for rule in rules:
            original = rule.original_name(name)
            if original is not None:
                names[original] = rule
        if not names:
            raise ValueError(f"tensors must have names in the original, got {name}, which has none")
        has_several = any(rule.is_alias or rule.row is not None for rule in names.values())
        for original, rule in names.items():
            found[original] = Origin(name, rule)
            if not has_several:
                break
    return found


def _first_match(rules: list[Rule], name: str) -> tuple[Rule, list[str]]:
    for rule in rules:
        ours = rule.match(name)
        if ours is not None:
            return rule, ours
    raise ValueError(f"tensors must have names in the table, got {name}")


def _check_origins(
    our: str, found: list[Origin], originals: Mapping[str, TensorSpec], wanted: tuple[int, ...]
) -> None:
    has_rows = found[0].rule.row is not None
    found.sort(key=lambda origin: origin.rule.row or 0)
    names = [origin.name for origin in found]
    rows = [origin.rule.row for origin in found]
    if has_rows and rows != list(range(*wanted)):
        raise ValueError(f"{our} must have {wanted[0]} rows, each from one tensor, got {names}")
    if not has_rows and sum(not origin.rule.is_alias for origin in found) > 1:
        raise ValueError(f"{our} must come from one tensor, got {names}")
    expected = (1, *wanted[1:]) if has_rows else wanted
    for origin in found:
        shape = originals[origin.name].shape
        if origin.rule.shape_here(shape) == expected:
            continue
        if origin.rule.leading_axis:
            expected = (1, *expected)
        raise ValueError(f"{origin.name} must be {expected}, got {tuple(shape)}")


def _listed(names: Iterable[str]) -> str:
    """Write a few of many names."""
    ordered = sorted(names)
    if not ordered:
        return "nothing"
    few = ", ".join(ordered[:3])
    if len(ordered) > 3:
        return f"{few} and {len(ordered) - 3} more"
    return few
