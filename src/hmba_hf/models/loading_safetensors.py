"""The base of families whose models load from safetensors alone, and whole."""

import re
from itertools import filterfalse
from typing import Any

from .loading_checkpoints import (  # first: it refuses an old transformers
    OPTIONS_OF_PUSHES,
    check_index,
    pushing_options,
    refuse_lacking,
)

# isort: split
from transformers.modeling_utils import PreTrainedModel


class SafetensorsPreTrainedModel(PreTrainedModel):
    """A model that loads and saves as every model of transformers, but from safetensors alone.

    Attributes:
        may_be_new: matches the names of weights that a checkpoint may lack, such as heads; they are drawn anew.
    """

    may_be_new: re.Pattern[str]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as every model of transformers is loaded, but from safetensors alone.

        Only what matches `may_be_new` may be drawn anew. `output_loading_info=True` returns the report in place of the
        check of missing weights.

        Raises:
            ValueError: if pickled weights are wanted, if a list of shards leads out of the checkpoint, or if the
                checkpoint lacks weights, as one of another family or depth does.
            OSError: if weights are missing, or not in safetensors.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("weights must be in safetensors, got use_safetensors=False: pickles can hold programs")
        kwargs["use_safetensors"] = True
        if pretrained_model_name_or_path is not None:
            check_index(pretrained_model_name_or_path, kwargs)
        wants_report = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, report = loaded
        if wants_report:
            return model, report
        if pretrained_model_name_or_path is not None:  # else the caller passed the weights, and may leave some out
            lacking = filterfalse(cls.may_be_new.search, report["missing_keys"])
            refuse_lacking(pretrained_model_name_or_path, lacking)
        return model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Any = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save a model as every model of transformers is saved.

        Differs: `push_to_hub=True` calls the method of that name with its options. So it pushes to a private
        repository unless `private=False` is given; `repo_id` is the folder's name when absent.
        """
        of_push: dict[str, Any] = {}
        if push_to_hub:
            others = {name: kwargs.pop(name) for name in OPTIONS_OF_PUSHES if name in kwargs}
            of_push = pushing_options(self, save_directory, push_to_hub, others)
            of_push["private"] = of_push.get("private") is not False
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if push_to_hub and self.should_save_on_this_rank(is_main_process):
            self.push_to_hub(**of_push)
