"""Low-rank updates that a run starts from: it trains them further, or merges them into their base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import find_adapter_config_file
from transformers.utils.hub import resolve_revision

from ..files import differences
from ..installation import missing_extra
from ..messages import logger
from ..models.loading_checkpoints import check_holds_updates

# What low-rank updates do not depend on: where their base lies, who has written them, how they were drawn or learned.
_IDLE = """
auto_mapping base_model_name_or_path inference_mode init_lora_weights lora_dropout peft_version revision
runtime_config task_type
""".split()


@dataclass(frozen=True)
class LowRankUpdates:
    """A checkpoint of low-rank updates.

    Args:
        path: its folder or Hub id.
        revision: of it.
        settings: its `peft.LoraConfig`.
    """

    path: str
    revision: str | None
    settings: Any

    @property
    def base(self) -> str:
        """The folder or Hub id of the base."""
        return self.settings.base_model_name_or_path

    @property
    def merging(self) -> str:
        """How to make a whole model of them."""
        return (
            f"`peft.PeftModel.from_pretrained(base, {self.path!r}).merge_and_unload()`, and save it and its processor"
        )

    def merge(self, model: PreTrainedModel) -> PreTrainedModel:
        """Add them to the weights of their base.

        Raises:
            ValueError: if weights are not there, or others are.
        """
        from peft import PeftModel

        peft_model = PeftModel.from_pretrained(model, self.path, revision=self.revision)
        self._read_weights(peft_model)
        if PartialState().is_main_process:
            logger.info(f"the low-rank updates of {self.path} are merged into their base {self.base}")
        return peft_model.merge_and_unload()

    def go_on(self, model: nn.Module) -> None:
        """Copy them into new low-rank updates, which are trained further.

        Raises:
            ValueError: if these are of other settings, if weights are not there, or others are.
        """
        from peft import set_peft_model_state_dict

        peft_model: Any = model
        held, wanted = (_settings(settings) for settings in (self.settings, peft_model.peft_config["default"]))
        if different := differences(held, wanted):
            raise ValueError(
                f"{self.path} holds low-rank updates of other settings: {'; '.join(different)}. Name theirs by "
                "--lora_rank, --lora_alpha, --lora_targets and the parts of --learns, or leave lora out of --learns, "
                "which merges them into their base"
            )
        set_peft_model_state_dict(peft_model, self._read_weights(peft_model))
        if PartialState().is_main_process:
            logger.info(f"the low-rank updates of {self.path} are trained further")

    def _read_weights(self, peft_model: Any) -> dict[str, torch.Tensor]:
        """Read their weights, which must be those of a model around their base."""
        from peft import get_peft_model_state_dict, load_peft_weights

        weights = load_peft_weights(self.path, device="cpu", revision=self.revision)
        odd = weights.keys() ^ get_peft_model_state_dict(peft_model).keys()
        if odd:
            raise ValueError(f"{self.path} must hold the weights that its settings name, got others: {min(odd)}")
        return weights


def find_updates(path: str, revision: str | None) -> LowRankUpdates | None:
    """Read which low-rank updates a folder or Hub id holds; `None` for a whole model.

    Raises:
        ValueError: if a run cannot start from them, with what to merge or to name.
        OSError: if their weights are not there, or not in safetensors.
        ImportError: if peft is needed and not there.
    """
    revision = resolve_revision(path, revision)  # once: all of it is of one commit
    if find_adapter_config_file(path, revision=revision) is None:
        return None
    try:
        from peft import LoraConfig, PeftConfig
    except ImportError as error:
        raise missing_extra(f"low-rank updates, as in {path}, need", "train") from error
    updates = LowRankUpdates(path, revision, PeftConfig.from_pretrained(path, revision=revision))
    if not isinstance(updates.settings, LoraConfig):
        raise ValueError(
            f"{path} must hold a model or low-rank updates (LoRA), got {updates.settings.peft_type.value}"
        )
    if not updates.base:
        raise ValueError(
            f"low-rank updates must name their base, got none in {path}: write it as base_model_name_or_path into "
            f"adapter_config.json, or merge them, {updates.merging}"
        )
    if Path(updates.base).is_absolute() and not Path(updates.base).is_dir():
        raise ValueError(
            f"{path} holds low-rank updates of {updates.base}, and no such folder is there: name where it is now as "
            f"base_model_name_or_path in adapter_config.json, or merge them, {updates.merging}"
        )
    check_holds_updates(path, {"revision": revision})
    if is_deepspeed_zero3_enabled():
        raise ValueError(f"ZeRO-3 needs a whole model, got low-rank updates in {path}: merge them, {updates.merging}")
    return updates


def _settings(settings: Any) -> dict[str, Any]:
    """The settings that low-rank updates depend on, in an order of their own."""
    known = {name: value for name, value in settings.to_dict().items() if name not in _IDLE}
    return {name: sorted(value) if isinstance(value, set | list) else value for name, value in known.items()}
