"""Tensors that a conversion derives from others, each when it is read: recovered, renamed, changed, joined."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hmba_hf.conversion.rename_keys import Origin, Renaming, Rule, TensorSpec, plan_renaming, tensor_specs
from hmba_hf.conversion.tensor_files import CHUNK, check_finite


class Tensors(Protocol):
    """Tensors by name, with shape and dtype known before they are read."""

    specs: dict[str, TensorSpec]

    def read(self, name: str) -> Tensor:
        """Read one of them; nothing may write to it."""


class MemoryTensors:
    """Tensors in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self.specs = tensor_specs(self.tensors)

    def read(self, name: str) -> Tensor:
        """Return one of them."""
        return self.tensors[name]


class RecoveredTensors:
    """A model published as its difference from a base: `delta + base`, in the dtype of the delta.

    Tensors that the base lacks, and rows beyond the base's, are those of the delta unchanged.

    The rounding error of the sum shows a wrong base. The delta is the base subtracted from weights of the same
    precision, which is exact for nearly every number. So is then adding the base, and subtracting it again returns the
    delta. With another base, the sum is rounded at other places:

        norm((delta + base) - base - delta) > 0.03 eps norm(delta)

    with the `eps` of the dtype. On random weights that are a twentieth or all new, the right base loses 0.001 to 0.004
    `eps`. A base of another seed, one tuned by a fortieth, and one rounded to bfloat16 lose 0.8 to 4. A base far
    smaller than the delta loses nothing, but no model was ever fine-tuned from it.

    Source: shikras/shikra, `apply_delta.py` (the sum; it has no check).
    """

    LARGEST_LOSS = 0.03  # eps, of the delta's norm
    LARGEST_DELTA = 2.0  # of the base's norm

    def __init__(self, delta: Tensors, base: Tensors):
        self.delta = delta
        self.base = base
        self.specs = dict(delta.specs)
        for name, (shape, _) in base.specs.items():
            if name.endswith("rotary_emb.inv_freq"):
                continue
            if name not in delta.specs:
                raise ValueError(f"the delta must hold each tensor of the base, got none for {name}")
            wanted = delta.specs[name].shape
            if shape[1:] != wanted[1:] or len(shape) != len(wanted) or (shape and shape[0] > wanted[0]):
                raise ValueError(f"{name} of the base must be {wanted} or have fewer rows, got {shape}: a wrong base")
        if not base.specs.keys() & delta.specs.keys():
            raise ValueError("the base must have names of the delta, got none of them")

    def read(self, name: str) -> Tensor:
        """Recover one tensor.

        Raises:
            ValueError: if the delta belongs to another base.
        """
        delta = self.delta.read(name)
        if name not in self.base.specs or not delta.is_floating_point():
            return delta
        base = self.base.read(name).to(delta.dtype)
        recovered = delta.clone()
        rows = slice(base.shape[0]) if base.ndim else ...
        recovered[rows] += base
        self._check_norms(name, delta=delta[rows], base=base, recovered=recovered[rows])
        return recovered

    def _check_norms(self, name: str, delta: Tensor, base: Tensor, recovered: Tensor) -> None:
        lost = 0.0
        changed = 0.0
        size = 0.0
        deltas = delta.reshape(-1).split(CHUNK)
        bases = base.reshape(-1).split(CHUNK)
        sums = recovered.reshape(-1).split(CHUNK)
        for d, b, r in zip(deltas, bases, sums, strict=True):
            lost += (r - b - d).double().square().sum().item()
            changed += d.double().square().sum().item()
            size += b.double().square().sum().item()
        eps = torch.finfo(delta.dtype).eps
        if lost > (self.LARGEST_LOSS * eps) ** 2 * changed or changed > self.LARGEST_DELTA**2 * size:
            raise ValueError(
                f"the base must be the one of the delta, got another one: in {name} the sum loses "
                f"{(lost / changed) ** 0.5 / eps:.2g} eps of the delta's norm (0.00 is right), which is "
                f"{(changed / max(size, 1e-300)) ** 0.5:.2g} of the base's"
            )


class RenamedTensors:
    """Tensors under the names of this package; read one at a time.

    Args:
        source: tensors under their original names.
        renaming: the origins of each.
        dtype: of each here, that of the original when absent; but decay rates are never narrower than float32.
        rows: numbers of rows by the names of tensors that get more; a new row is the mean of the others.
    """

    def __init__(
        self,
        source: Tensors,
        renaming: Renaming,
        dtype: torch.dtype | None = None,
        rows: Mapping[str, int] | None = None,
    ):
        self.source = source
        self.renaming = renaming
        self.rows = rows or {}
        self.specs = {}
        for name, origins in renaming.origins.items():
            rule = origins[0].rule
            original = source.specs[origins[0].name]
            shape = rule.shape_here(original.shape)
            if rule.row is not None:
                shape = (len(origins), *shape[1:])
            if name in self.rows:
                shape = (self.rows[name], *shape[1:])
            wanted = dtype or original.dtype
            if name.endswith("A_log"):
                wanted = torch.promote_types(wanted, torch.float32)
            self.specs[name] = TensorSpec(shape, wanted)

    def read(self, name: str) -> Tensor:
        """Build one tensor.

        Raises:
            ValueError: if a number is too large for the dtype.
        """
        read = {origin.name: self.source.read(origin.name) for origin in self.renaming.origins[name]}
        tensor = self.renaming.make(name, read)
        spec = self.specs[name]
        if tensor.dtype != spec.dtype:
            tensor = tensor.to(spec.dtype)
            check_finite(name, tensor)
        if name not in self.rows or spec.shape[0] == tensor.shape[0]:
            return tensor
        sums = [part.double().sum(0) for part in tensor.split(1024)]
        mean = torch.stack(sums).sum(0) / len(tensor)
        added = mean.to(tensor.dtype).expand(spec.shape[0] - tensor.shape[0], -1)
        return torch.cat([tensor, added])


def in_dtype(source: Tensors, dtype: torch.dtype) -> RenamedTensors:
    """Return tensors under unchanged names, in a dtype by the rules of `RenamedTensors`."""
    unchanged = plan_renaming(source.specs, [Rule("*", ("*",))], source.specs)
    return RenamedTensors(source, unchanged, dtype)


class OriginalTensors:
    """Tensors under the names of a foreign checkpoint, built from ours; read one at a time.

    Args:
        ours: tensors of this package.
        origins: for each original name, the name here and its rule.
    """

    def __init__(self, ours: Tensors, origins: Mapping[str, Origin]):
        self.ours = ours
        self.origins = origins
        self.specs = {}
        for original, origin in origins.items():
            spec = ours.specs[origin.name]
            shape = spec.shape
            if origin.rule.row is not None:
                shape = (1, *shape[1:])
            if origin.rule.leading_axis:
                shape = (1, *shape)
            self.specs[original] = TensorSpec(shape, spec.dtype)

    def read(self, name: str) -> Tensor:
        """Build one tensor."""
        origin = self.origins[name]
        return origin.rule.take_back(self.ours.read(origin.name))


class RelabeledTensors:
    """Tensors under other names.

    Args:
        source: tensors under their stored names.
        stored: the stored name of each.
    """

    def __init__(self, source: Tensors, stored: Mapping[str, str]):
        self.source = source
        self.stored = stored
        self.specs = {name: source.specs[stored[name]] for name in stored}

    def read(self, name: str) -> Tensor:
        """Read one of them."""
        return self.source.read(self.stored[name])


class Change(NamedTuple):
    """How a tensor gets another shape."""

    shape: tuple[int, ...]
    apply: Callable[[Tensor], Tensor]


class ChangedTensors:
    """Tensors of a source, some of them changed when they are read."""

    def __init__(self, source: Tensors, changes: Mapping[str, Change]):
        self.source = source
        self.changes = changes
        self.specs = dict(source.specs)
        for name, change in changes.items():
            self.specs[name] = TensorSpec(change.shape, source.specs[name].dtype)

    def read(self, name: str) -> Tensor:
        """Read one of them."""
        tensor = self.source.read(name)
        if name in self.changes:
            return self.changes[name].apply(tensor)
        return tensor


class SplitTensors:
    """Tensors of a source, some of them cut along their first axis into equal parts with names of their own.

    Args:
        source: of whole tensors.
        parts: the names of the parts of a tensor, in order, by its own name.

    Raises:
        ValueError: if a tensor cannot be cut into so many parts.
    """

    def __init__(self, source: Tensors, parts: Mapping[str, Sequence[str]]):
        self.source = source
        self.specs: dict[str, TensorSpec] = {}
        self._places: dict[str, tuple[str, int, int]] = {}
        for name, spec in source.specs.items():
            if name not in parts:
                self.specs[name] = spec
                continue
            names = parts[name]
            if not spec.shape or spec.shape[0] % len(names):
                raise ValueError(f"{name} must have rows for {len(names)} equal parts, got {spec.shape}")
            for number, part in enumerate(names):
                self.specs[part] = TensorSpec((spec.shape[0] // len(names), *spec.shape[1:]), spec.dtype)
                self._places[part] = (name, number, len(names))

    def read(self, name: str) -> Tensor:
        """Read one of them."""
        if name not in self._places:
            return self.source.read(name)
        whole, number, count = self._places[name]
        return self.source.read(whole).chunk(count)[number]


class StackedTensors:
    """Tensors of a source, some of them put together along their first axis: what undoes `SplitTensors`.

    Args:
        source: of the parts.
        parts: the names of the parts of a tensor, in order, by its own name.
    """

    def __init__(self, source: Tensors, parts: Mapping[str, Sequence[str]]):
        self.source = source
        self.parts = parts
        whole = {part: name for name, names in parts.items() for part in names}
        self.specs: dict[str, TensorSpec] = {}
        for name, spec in source.specs.items():
            if name not in whole:
                self.specs[name] = spec
            elif whole[name] not in self.specs:
                rows = sum(source.specs[part].shape[0] for part in parts[whole[name]])
                self.specs[whole[name]] = TensorSpec((rows, *spec.shape[1:]), spec.dtype)

    def read(self, name: str) -> Tensor:
        """Read one of them."""
        if name not in self.parts:
            return self.source.read(name)
        return torch.cat([self.source.read(part) for part in self.parts[name]])


class SelectedTensors:
    """Some of the tensors of a source."""

    def __init__(self, source: Tensors, names: Iterable[str]):
        self.source = source
        self.specs = {name: source.specs[name] for name in names}

    def read(self, name: str) -> Tensor:
        """Read one of them."""
        return self.source.read(name)


class JoinedTensors:
    """Tensors of several sources, one source after the other."""

    def __init__(self, *sources: Tensors):
        self.specs: dict[str, TensorSpec] = {}
        self._sources: dict[str, Tensors] = {}
        for source in sources:
            twice = source.specs.keys() & self.specs.keys()
            if twice:
                raise ValueError(f"each tensor must come from one source, got {sorted(twice)[0]} from two")
            self.specs |= source.specs
            self._sources |= dict.fromkeys(source.specs, source)

    def read(self, name: str) -> Tensor:
        """Read one of them."""
        return self._sources[name].read(name)
