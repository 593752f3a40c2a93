"""The base of families whose models load from safetensors alone, and whole."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import filterfalse
from typing import Any

from .loading_checkpoints import (  # first: it refuses an old transformers
    check_index,
    check_quantised,
    first_names,
    read_settings,
    refuse_lacking,
    refuse_other_files,
)
from .loading_options import OPTIONS_OF_PUSHES, pushing_options

# isort: split
from safetensors import SafetensorError
from transformers.modeling_utils import PreTrainedModel

from .loading_quantised import keep_savable
from .loading_weights import check_loads_back


class SafetensorsPreTrainedModel(PreTrainedModel):
    """A model that loads and saves as every model of transformers, but from safetensors alone.

    Attributes:
        may_be_new: matches the names of weights that a checkpoint may lack, such as heads; they are drawn anew.
        must_be_read: matches the names of weights that a checkpoint holds for this very model alone, such as blocks.
        model_types: whose checkpoints are read; of any when empty.
        help_with_sizes: what to do with a checkpoint of other sizes.
    """

    may_be_new: re.Pattern[str]
    must_be_read: re.Pattern[str] | None = None
    model_types: tuple[str, ...] = ()
    help_with_sizes = ""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as every model of transformers is loaded, but from safetensors alone.

        Only what matches `may_be_new` may be drawn anew. `output_loading_info=True` returns the report in place of the
        check of missing weights.

        Raises:
            ValueError: if pickled weights are wanted, if a list of shards leads out of the checkpoint, or if the
                checkpoint is of another family, or lacks blocks or has more.
            RuntimeError: if weights have other shapes, unless `ignore_mismatched_sizes` draws these anew.
            OSError: if weights are missing, damaged, or not in safetensors.
        """
        refuse_other_files(kwargs)
        kwargs["use_safetensors"] = True
        if pretrained_model_name_or_path is not None:
            check_index(pretrained_model_name_or_path, kwargs)
            check_model_type(pretrained_model_name_or_path, cls.model_types, kwargs)
        may_mismatch = kwargs.get("ignore_mismatched_sizes")
        kwargs["ignore_mismatched_sizes"] = True  # else transformers tells of them in a log alone
        wants_report = kwargs.pop("output_loading_info", False)
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise OSError(
                f"{pretrained_model_name_or_path} must hold whole weights, got a torn file: {error}"
            ) from error
        model, report = loaded
        check_quantised(model, pretrained_model_name_or_path)
        keep_savable(model)
        if not may_mismatch:
            refuse_other_sizes(pretrained_model_name_or_path, report["mismatched_keys"], cls.help_with_sizes)
        if wants_report:
            return model, report
        if pretrained_model_name_or_path is not None:  # else the caller passed the weights, and may leave some out
            lacking = filterfalse(cls.may_be_new.search, report["missing_keys"])
            refuse_lacking(pretrained_model_name_or_path, lacking)
            if cls.must_be_read is not None:
                refuse_unread(
                    pretrained_model_name_or_path, filter(cls.must_be_read.search, report["unexpected_keys"])
                )
        return model

    def save_pretrained(  # type: ignore[override]  # the other options are in `kwargs`
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Any = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save a model as every model of transformers is saved, if `from_pretrained` will find all of it there.

        Low-rank updates that transformers has put into the model are saved alone.

        Differs: `push_to_hub=True` calls the method of that name with its options. So it pushes to a private
        repository unless `private=False` is given; `repo_id` is the folder's name when absent.

        Raises:
            ValueError: if names, shapes or kinds of the weights are not those of a new model of this configuration.
        """
        of_push: dict[str, Any] = {}
        if push_to_hub:
            others = {name: kwargs.pop(name) for name in OPTIONS_OF_PUSHES if name in kwargs}
            of_push = pushing_options(self, save_directory, push_to_hub, others)
            of_push["private"] = of_push.get("private") is not False
        if not self._hf_peft_config_loaded:
            check_loads_back(self, state_dict)
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if push_to_hub and self.should_save_on_this_rank(is_main_process):
            self.push_to_hub(**of_push)


def refuse_unread(checkpoint: Any, unread: Iterable[str]) -> None:
    """Raise a `ValueError` that names the weights of a checkpoint for which a model has no place, if there are any."""
    if listed := first_names(unread):
        raise ValueError(
            f"{checkpoint} must hold as many blocks and scans as the configuration says, got others: {listed}"
        )


def refuse_other_sizes(checkpoint: Any, mismatched: Iterable[Any], advice: str = "") -> None:
    """Raise a `RuntimeError`, as transformers does, that names weights of other shapes than a model's.

    Args:
        checkpoint: folder or Hub id.
        mismatched: of transformers' report, each a name, the shape in the checkpoint and the one in the model.
        advice: what else to do, as a clause.
    """
    others = []
    for name, held, wanted in mismatched:
        others.append(f"{name} of {tuple(held)} instead of {tuple(wanted)}")
    if listed := first_names(others):
        raise RuntimeError(
            f"{checkpoint} must hold weights of the sizes that its configuration says, got {listed}; "
            f"ignore_mismatched_sizes=True draws such weights anew{advice and f', and {advice}'}"
        )


def check_model_type(checkpoint: Any, wanted: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a checkpoint's `config.json` names a model of another family.

    Args:
        checkpoint: folder or Hub id.
        wanted: model types that can be read; all when empty.
        options: of `from_pretrained`.
    """
    held = read_settings(checkpoint, "config.json", **options).get("model_type")
    if wanted and held is not None and held not in wanted:
        raise ValueError(f"{checkpoint} must be a checkpoint of {' or '.join(wanted)}, got one of {held}")
