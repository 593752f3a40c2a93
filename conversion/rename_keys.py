"""Strict tables from the tensor names of foreign checkpoints to this package's, and back.

A table is a list of rules; the first one that fits a name decides. What fits no rule, what stands for one tensor
twice, what is missing and what has the wrong shape or dtype stops a conversion, by name.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ADAPTER, TOWER, PROJECTOR = "model.temporal_adapter.", "model.vision_tower.", "model.multi_modal_projector."
PREFIXES = ("model.hmba.", "model.kbmamba.")  # of the public code, and of the authors' own
# One module of the released adapter under seven names.
NORM_NAMES = ("layer_norm", *(f"{way}layer_{number}.1" for number in (1, 2, 3) for way in ("", "reverse_")))
# What the released forward never reads, or whose result it throws away.
UNUSED_PARTS = (
    *("cls_token", "v1", "mamba_block.*", "latentMB.*"),
    *(f"{way}layer_{number}.0.*" for number in (1, 3) for way in ("", "reverse_")),
)
# Where a module of the released adapter stands in the released preset.
RELEASED_MODULES: dict[str, tuple[str, ...]] = {
    "t_mamba": ("context.mixers.divided_time.forward_mixer",),
    "layer_2.0": ("context.mixers.space.forward_mixer",),
    "reverse_layer_2.0": ("context.mixers.space.reverse_mixer",),
    "fc_q": ("query.fusion.query_proj",),
}
RELEASED_NORMS: tuple[str, ...] = ("context.norms.shared",)
# And where it starts a paper preset, which has a module of its own wherever the released code shares one.
PAPER_SCANS = ("divided_space", "joint_stride_1", "joint_stride_2")
PAPER_NORMS = tuple(
    f"context.norms.{branch}_stride_{stride}"
    for branch in ("divided_space_time", "joint_space_time")
    for stride in (1, 2)
)
PAPER_MODULES: dict[str, tuple[str, ...]] = {
    "t_mamba": ("context.mixers.divided_time.forward_mixer",),
    "layer_2.0": tuple(f"context.mixers.{scan}.forward_mixer" for scan in PAPER_SCANS),
    "reverse_layer_2.0": tuple(f"context.mixers.{scan}.reverse_mixer" for scan in PAPER_SCANS),
}


class TensorSpec(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its size."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Rule:
    """One line of a table; `*` in `original` stands for a part of a name, which takes the place of `*` in `ours`.

    Args:
        original: name in the foreign checkpoint.
        ours: names here, more than one for a tensor that starts several; none for one that is not used.
        row: which row of ours it is, where several originals are the rows of one tensor.
        leading_axis: whether the original has one more axis, of size one, in front.
        is_alias: whether it may be one of several names of the same tensor, which must then be equal.
    """

    original: str
    ours: tuple[str, ...] = ()
    row: int | None = None
    leading_axis: bool = False
    is_alias: bool = False

    def match(self, name: str) -> list[str] | None:
        """Return the names here of an original, or `None` if the rule is not about it."""
        return None if (part := _fits(self.original, name)) is None else [our.replace("*", part) for our in self.ours]

    def makes(self, name: str) -> bool:
        """Tell whether a tensor here may come from this rule."""
        return any(_fits(our, name) is not None for our in self.ours)

    def original_name(self, name: str) -> str | None:
        """Return the original name of a tensor here, or `None` if the rule is not about it."""
        if not self.ours or (part := _fits(self.ours[0], name)) is None:
            return None
        return self.original.replace("*", part)

    def shape_here(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that an original of this shape has here."""
        return shape[1:] if self.leading_axis and shape[:1] == (1,) else shape

    def bring(self, original: Tensor) -> Tensor:
        """Return an original in the shape that it has here."""
        return original[0] if self.leading_axis else original

    def take_back(self, ours: Tensor) -> Tensor:
        """Return the original of a tensor here."""
        ours = ours if self.row is None else ours[self.row : self.row + 1]
        return ours[None] if self.leading_axis else ours


class Origin(NamedTuple):
    """An original tensor of one of ours."""

    name: str
    rule: Rule


class Renaming(NamedTuple):
    """Where each tensor here comes from, and what is not used."""

    origins: dict[str, list[Origin]]
    unused: list[str]

    def make(self, name: str, read: Mapping[str, Tensor]) -> Tensor:
        """Make a tensor of its originals.

        Raises:
            ValueError: if names that stand for one tensor hold different ones.
        """
        origins = self.origins[name]
        tensors = [origin.rule.bring(read[origin.name]) for origin in origins]
        if origins[0].rule.row is not None:
            return torch.cat(tensors)
        for origin, tensor in zip(origins, tensors, strict=True):
            if not torch.equal(tensor, tensors[0]):
                raise ValueError(f"{origin.name} must equal {origins[0].name}, another name of it, got other values")
        return tensors[0]


def _fits(pattern: str, name: str) -> str | None:
    """Return what `*` stands for if a name fits a pattern; the empty string if the pattern has none."""
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
        prefix: what its names begin with; `"model.kbmamba."` in the authors' own tree.
        preset: `"released"` for the same adapter here, `"paper"` for a paper preset that starts from it.
        ours: what names here begin with.

    Source: Sranc3/H-MBA, `mamba_adaptation.py`.
    """
    if preset == "released":
        scales = f"{ours}query.fusion.context_scales"
        rules = [Rule(f"{prefix}v{number}", (scales,), row=row) for row, number in enumerate((2, 3))]
        modules, norms = RELEASED_MODULES, RELEASED_NORMS
    else:
        rules = [Rule(f"{prefix}{name}") for name in ("v2", "v3", "fc_q.*")]
        modules, norms = PAPER_MODULES, PAPER_NORMS
    table = f"{ours}context.temporal_position_embedding"
    rules += [Rule(f"{prefix}{name}") for name in UNUSED_PARTS]
    rules += [Rule(f"{prefix}time_embed", (table,), leading_axis=True)]
    for name, places in modules.items():
        rules += [Rule(f"{prefix}{name}.*", tuple(f"{ours}{place}.*" for place in places))]
    targets = tuple(f"{ours}{norm}.*" for norm in norms)
    return rules + [Rule(f"{prefix}{name}.*", targets, is_alias=True) for name in NORM_NAMES]


def adapter_prefix(names: Iterable[str]) -> str | None:
    """Return what the names of the adapter begin with in a checkpoint of the released code, `None` without one.

    Raises:
        ValueError: if there are two adapters.
    """
    found = {name[: len(prefix)] for name in names for prefix in PREFIXES if name.startswith(prefix)}
    if len(found) > 1:
        raise ValueError(f"one adapter is wanted, got tensors of {sorted(found)}")
    return found.pop() if found else None


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
    layers = {"0.*": "linear_1.*", "2.*": "linear_2.*"} if has_two_layers else {"*": "*"}
    return [
        *(Rule(f"model.mm_projector.{a}", (f"model.multi_modal_projector.{b}",)) for a, b in layers.items()),
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
    """Return what comes first in a table of a model whose head is its embeddings, which some files hold twice.

    Args:
        embeddings: name of the embeddings here.
    """
    return [Rule(name, (embeddings,), is_alias=True) for name in ("lm_head.weight", "language_model.lm_head.weight")]


def vision_tower_rules(wanted: Iterable[str], start: str = "") -> list[Rule]:
    """Return the table of a vision tower, by itself or as half of a vision-text model.

    Args:
        wanted: names of the tower's tensors here; some towers of transformers hold one more module than others.
        start: what the original names begin with.
    """
    is_nested = any(name.startswith(f"{TOWER}vision_model.") for name in wanted)
    rules = [
        Rule(f"{start}vision_model.embeddings.position_ids"),
        Rule(f"{start}embeddings.position_ids"),
        Rule(f"{start}vision_model.*", (f"{TOWER}vision_model.*" if is_nested else f"{TOWER}*",)),
    ]
    if not start:
        rules += [Rule(name) for name in ("text_model.*", "visual_projection.*", "text_projection.*", "logit_*")]
    return [*rules, Rule(f"{start}*", (f"{TOWER}*",))]


def plan_renaming(
    originals: Mapping[str, TensorSpec],
    rules: list[Rule],
    wanted: Mapping[str, TensorSpec],
    optional: Collection[str] = (),
) -> Renaming:
    """Find out where each wanted tensor comes from.

    Args:
        originals: the tensors of the foreign checkpoint.
        rules: its table.
        wanted: the tensors that must be made, all of them and no other.
        optional: those of them that may be missing.

    Raises:
        ValueError: if a tensor fits no rule or belongs to nothing that is wanted, if two stand for one, if one is
            missing, or if a shape is wrong.
    """
    origins: dict[str, list[Origin]] = {}
    unused: list[str] = []
    for name in originals:
        rule, ours = _first_match(rules, name)
        if not ours:
            unused.append(name)
        for our in ours:
            if our not in wanted:
                raise ValueError(
                    f"a tensor of the model is wanted, got {name}, which would be {our}: it has none such"
                )
            origins.setdefault(our, []).append(Origin(name, rule))
    if missing := [name for name in wanted if name not in origins and name not in optional]:
        raise ValueError(f"the checkpoint must hold what becomes {missing[0]}, got {_listed(originals)}")
    for our, found in origins.items():
        _check_origins(our, found, originals, wanted[our].shape)
        for name, _ in found:
            if not originals[name].dtype.is_floating_point or originals[name].dtype.itemsize < 2:
                raise ValueError(f"{name} must be of real numbers of 16 bits or more, got {originals[name].dtype}")
    return Renaming({name: origins[name] for name in _in_order(originals, origins)}, unused)


def rename_tensors(
    originals: Mapping[str, Tensor], rules: list[Rule], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename tensors that are in memory; what is wanted is given by tensors of the same shapes."""
    specs = [{name: TensorSpec(tuple(x.shape), x.dtype) for name, x in some.items()} for some in (originals, wanted)]
    renaming = plan_renaming(specs[0], rules, specs[1])
    return {name: renaming.make(name, originals) for name in renaming.origins}


def single_dtype(originals: Mapping[str, TensorSpec], renaming: Renaming) -> torch.dtype:
    """Return the dtype of all tensors that are used; decay rates and skips of Mamba may be float32 beside any.

    Raises:
        ValueError: if there is more than one.
    """
    used = [origin.name for origins in renaming.origins.values() for origin in origins]
    free = [name for name in used if not (name.endswith((".A_log", ".D")) and originals[name].dtype == torch.float32)]
    ((most, _), *others) = Counter(originals[name].dtype for name in free).most_common()
    if others:
        name = next(name for name in free if originals[name].dtype != most)
        raise ValueError(
            f"{name} must be {most} as most tensors are, got {originals[name].dtype}: name a dtype to bring all to it"
        )
    return most


def plan_originals(ours: Iterable[str], rules: list[Rule]) -> dict[str, Origin]:
    """Find the names that tensors here have in a foreign checkpoint, every alias among them.

    Returns:
        `{original name: (name here, rule)}`.

    Raises:
        ValueError: if a tensor has no name there.
    """
    found: dict[str, Origin] = {}
    for name in ours:
        names = {original: rule for rule in rules if (original := rule.original_name(name)) is not None}
        if not names:
            raise ValueError(f"a tensor with a name in the original is wanted, got {name}, which has none")
        several = any(rule.is_alias or rule.row is not None for rule in names.values())
        for original, rule in list(names.items())[: None if several else 1]:
            found[original] = Origin(name, rule)
    return found


def _first_match(rules: list[Rule], name: str) -> tuple[Rule, list[str]]:
    for rule in rules:
        if (ours := rule.match(name)) is not None:
            return rule, ours
    raise ValueError(f"a tensor with a name in the table is wanted, got {name}")


def _check_origins(
    our: str, found: list[Origin], originals: Mapping[str, TensorSpec], wanted: tuple[int, ...]
) -> None:
    first, *others = found
    found.sort(key=lambda origin: origin.rule.row or 0)
    rows = [origin.rule.row for origin in found]
    if first.rule.row is not None and rows != list(range(*wanted)):
        raise ValueError(f"{our} must have {wanted[0]} rows, each from one tensor, got {[name for name, _ in found]}")
    if others and first.rule.row is None and sum(not origin.rule.is_alias for origin in found) > 1:
        raise ValueError(f"one tensor is wanted for {our}, got {[name for name, _ in found]}")
    expected = wanted if first.rule.row is None else (1, *wanted[1:])
    for name, rule in found:
        if rule.shape_here(originals[name].shape) != expected:
            axis = (1,) if rule.leading_axis else ()
            raise ValueError(f"{name} must be {(*axis, *expected)}, got {tuple(originals[name].shape)}")


def _in_order(originals: Iterable[str], origins: Mapping[str, list[Origin]]) -> list[str]:
    """Order ours as their first originals are, so that each file is read from its start to its end."""
    position = {name: index for index, name in enumerate(originals)}
    return sorted(origins, key=lambda our: min(position[origin.name] for origin in origins[our]))


def _listed(names: Iterable[str]) -> str:
    """Write a few of many names."""
    few = sorted(names)
    return ", ".join(few[:3]) + (f" and {len(few) - 3} more" if len(few) > 3 else "") if few else "nothing"
