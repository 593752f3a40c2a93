"""The heads of a classifier: what each of them names, and whether it is asked a question."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ...data.actions.questioned import ACTION_HEAD, head_names

UNKNOWN = -100  # a label that no loss reads
Classes = Mapping[str, Sequence[str]]


class Heads(NamedTuple):
    """What a family of classifiers makes of a clip, and in which form.

    Attributes:
        classes: names of the classes of each head, in the order of the model.
        asks: whether the model reads a question for each head. Its predictions and references are then by head;
            those of other models are of one head and stand by themselves.
    """

    classes: Classes
    asks: bool = False

    @classmethod
    def of(cls, config: Any) -> "Heads":
        """Return the heads of a model, by its configuration."""
        if hasattr(config, "heads"):
            return cls({head: list(names) for head, names in config.heads.items()}, asks=True)
        names = [config.id2label[number] for number in range(config.num_labels)]
        return cls({ACTION_HEAD: names})

    @property
    def names(self) -> list[str]:
        """Names of the heads."""
        return list(self.classes)

    @property
    def sizes(self) -> list[int]:
        """Number of classes of each head."""
        return [len(names) for names in self.classes.values()]

    @property
    def combination(self) -> str | None:
        """The name of what all heads together name, such as verb and noun an action; `None` for one head."""
        if len(self.classes) == 1:
            return None
        return combination_name(self.names)

    def labels_of(self, name: str, labels: Mapping[str, int | None]) -> torch.Tensor:
        """Return the numbers of a sample's classes, `()` for one head or `(heads,)`, -100 where one is not known.

        Args:
            name: of the sample.
            labels: by head; of other heads they are left out.

        Raises:
            ValueError: if none is known, or if one is no class of the model.
        """
        are_unknown = all(labels.get(head) is None for head in self.names)
        numbers = []
        for head, size in zip(self.names, self.sizes, strict=True):
            label = labels.get(head)
            is_of_model = label is not None and label < size
            if not is_of_model and (are_unknown or label is not None):
                of_head = f" of {head}" if self.asks else ""
                raise ValueError(f"sample {name} must have a label{of_head} from 0 to {size - 1}, got {label}")
            numbers.append(UNKNOWN if label is None else label)
        if len(numbers) == 1:
            return torch.tensor(numbers[0])
        return torch.tensor(numbers)

    def logits_of(self, output: Any) -> dict[str, torch.Tensor]:
        """Return the logits of a model's output by head, `(b, classes)` each."""
        if self.asks:
            return {head: output.head_logits[head] for head in self.names}
        return {self.names[0]: output.logits}

    def best(self, probabilities: Mapping[str, torch.Tensor], count: int) -> list[Any]:
        """Return the most likely classes of each sample, from the likeliest on.

        A class is `{"class", "label", "score"}`. Of a model that is asked, they are by head, `{"heads": {head: ...}}`,
        with `combinations`, the best by the product of their probabilities, where there are several heads. The class
        of a combination is a number for each head.

        Args:
            probabilities: by head, `(b, classes)`.
            count: most classes of a head, and most combinations.
        """
        best = {head: _best_classes(values, self.classes[head], count) for head, values in probabilities.items()}
        if not self.asks:
            return best[self.names[0]]
        found = []
        for row in range(len(next(iter(best.values())))):
            heads = {head: rows[row] for head, rows in best.items()}
            prediction: dict[str, Any] = {"heads": heads}
            if len(heads) > 1:
                prediction["combinations"] = _best_combinations(heads, count)
            found.append(prediction)
        return found


def combination_name(heads: Sequence[str]) -> str:
    """Return the name of what heads name together: `action`, or `combination` where a head is called that itself."""
    return "combination" if ACTION_HEAD in heads else "action"


def dataset_heads(samples: Any) -> dict[str, list[str]] | None:
    """Return the names of the classes of each head of a dataset, in order of their numbers; `None` if it has none."""
    features = getattr(getattr(samples, "rows", samples), "features", None)
    if not features:
        return None
    if "label" in features and getattr(features["label"], "names", None) is None:
        return None
    if not {"label", "labels"} & set(features):
        return None
    return head_names(features)


def own_heads(config: Any) -> dict[str, list[str] | None]:
    """Return the names of the classes of a model's heads; `None` where they are made up."""
    heads = Heads.of(config)
    own: dict[str, list[str] | None] = {}
    for head, names in heads.classes.items():
        made_up = [f"LABEL_{number}" for number in range(len(names))]
        own[head] = None if list(names) == made_up else list(names)
    return own


def has_head_for(config: Any, head: str, names: Sequence[str]) -> bool:
    """Whether a model has a head for these classes; one whose classes have no names is for any as many."""
    own = own_heads(config)
    if head not in own:
        return False
    known = own[head]
    if known is None:
        return len(Heads.of(config).classes[head]) == len(names)
    return known == list(names)


def check_class_names(classes: Classes | Sequence[str] | None, config: Any) -> None:
    """Raise a `ValueError` if a dataset lacks a head of a model, or has other classes for one, by number or name.

    Args:
        classes: of the dataset by head, or of its only head; anything goes where it names none.
        config: of the model.
    """
    if classes is None:
        return
    if not isinstance(classes, Mapping):
        classes = {ACTION_HEAD: classes}
    heads = Heads.of(config)
    own = own_heads(config)
    for head, size in zip(heads.names, heads.sizes, strict=True):
        if head not in classes:
            raise ValueError(f"heads of the model must be of {list(classes)}, as in the dataset, got {head!r}")
        wanted = classes[head]
        of_head = f" of {head}" if heads.asks else ""
        if len(wanted) != size:
            raise ValueError(f"classes{of_head} of the model must be {len(wanted)}, as in the dataset, got {size}")
        for number, (name, found) in enumerate(zip(wanted, own[head] or wanted, strict=True)):
            if name != found:
                raise ValueError(
                    f"class {number}{of_head} of the model must be {name!r}, as in the dataset, got {found!r}"
                )


def _best_classes(probabilities: torch.Tensor, names: Sequence[str], count: int) -> list[list[dict[str, Any]]]:
    """The best classes of one head for each sample."""
    scores, classes = probabilities.topk(min(count, probabilities.shape[-1]))
    best = []
    for row_scores, row_classes in zip(scores.tolist(), classes.tolist(), strict=True):
        row = []
        for score, number in zip(row_scores, row_classes, strict=True):
            row.append({"class": number, "label": names[number], "score": score})
        best.append(row)
    return best


def _best_combinations(heads: Mapping[str, Sequence[Mapping[str, Any]]], count: int) -> list[dict[str, Any]]:
    """The best combinations of one sample: each is of classes that are among as many best ones of their heads."""
    combinations: list[dict[str, Any]] = [{"class": {}, "label": "", "score": 1.0}]
    for head, classes in heads.items():
        longer = []
        for chosen in combinations:
            for item in classes:
                longer.append(
                    {
                        "class": {**chosen["class"], head: item["class"]},
                        "label": f"{chosen['label']} {item['label']}".strip(),
                        "score": math.prod((chosen["score"], item["score"])),
                    }
                )
        longer.sort(key=lambda item: -item["score"])  # equal ones stay in the order of their classes
        combinations = longer[:count]
    return combinations
