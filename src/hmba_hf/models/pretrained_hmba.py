"""What all H-MBA models share: how they are loaded and saved whole, and how new weights are drawn."""

import re
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

from .loading_checkpoints import (  # first: it refuses an old transformers
    check_holds_updates,
    check_index,
    check_quantised,
    file_options,
    pushing_options,
    refuse_lacking,
)

# isort: split
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .configuration_hmba import HMBAConfig
from .joining_hmba import build_without_weights, keep_scales
from .layers_baseline_adapters import SelfAttention, TransformerAdapter
from .layers_context_fusion import AddFusion, CosineFusion, CrossAttentionFusion
from .layers_state_space import StateSpace
from .layers_temporal_adapter import ContextMamba, QueryMamba, TemporalAdapter
from .loading_transformers import CACHE_NAMES

# Options of `save_pretrained` that are about files; all others are for `push_to_hub`.
_SAVE_OPTIONS = ("save_peft_format", "save_original_format", "distributed_checkpoint")
# Those with which something else than the whole model would be saved.
_PART_OPTIONS = ("state_dict", "variant", "distributed_checkpoint")


class HMBAPreTrainedModel(PreTrainedModel):
    """What all H-MBA models share: loading, saving, initialisation."""

    config: HMBAConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["video", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["TemporalAdapter", "TransformerAdapter"]
    _skip_keys_device_placement = [*CACHE_NAMES]
    _keep_in_fp32_modules_strict = ["A_log"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as every model of transformers is loaded, but from safetensors alone, and whole.

        Weights that the configuration of the checkpoint does not have are drawn anew: those of an adapter that is
        asked for, `adapter="mamba"`, beside a base without one. Who asks for `output_loading_info` reads the report.

        Raises:
            ValueError: if pickled weights are asked for, if a list of shards leads out of the checkpoint or names
                none, if the checkpoint or low-rank updates lack weights or are not quantised as it says, or if layers
                shall be fused.
            OSError: if the weights are not all there, or not in safetensors.
        """
        _refuse_pickles(kwargs.get("use_safetensors"))
        kwargs["use_safetensors"] = True
        if kwargs.get("fusion_config"):
            raise ValueError(f"fusion_config must be absent, for H-MBA fuses no layers, got {kwargs['fusion_config']}")
        wants_report = kwargs.pop("output_loading_info", False)
        if pretrained_model_name_or_path is not None:
            check_index(pretrained_model_name_or_path, kwargs)
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except OSError as error:
            if "safetensors" not in str(error) or re.search(r"-\d+-of-\d+\.", str(error)):
                raise  # a shard that is missing says nothing of pickles
            raise OSError(f"H-MBA loads weights in safetensors only, never pickled ones: {error}") from error
        model, report = loaded
        check_quantised(model, pretrained_model_name_or_path)
        keep_scales(model)
        lacking = vars(model).pop("_lacking", set())
        if kwargs.get("key_mapping"):
            vars(model).pop("_weight_conversions", None)  # a save would write the foreign names, which no load knows
        if wants_report:
            report["missing_keys"] |= lacking
            return model, report
        if pretrained_model_name_or_path is None:  # the weights were handed over, as many as they are
            return model
        if model._hf_peft_config_loaded:
            updates = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path", pretrained_model_name_or_path)
            refuse_lacking(updates, report["missing_keys"])
        if lacking:
            held = HMBAConfig.from_pretrained(model.name_or_path, **file_options(kwargs))
            lacking &= build_without_weights(cls, held).state_dict().keys()
        refuse_lacking(model.name_or_path, lacking)
        return model

    @staticmethod
    def _finalize_model_loading(model: Any, load_config: Any, loading_info: Any) -> Any:
        """Note what a model's own weights lack: the report of `from_pretrained` may be that of low-rank updates."""
        loading_info = PreTrainedModel._finalize_model_loading(model, load_config, loading_info)
        model._lacking = set(loading_info.missing_keys)
        return loading_info

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Any = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Save a model as every model of transformers is saved, if `from_pretrained` will find all of it there.

        Low-rank updates that transformers has put into the model are saved alone; merged ones are a part of it.

        Differs: `push_to_hub=True` ends where the method of that name does, in a private repository unless
        `private=False` is given. The options of that method are taken; `repo_id` is the folder's name when absent.

        Raises:
            ValueError: if names, shapes or kinds of the weights are not those of a new model of this configuration,
                if a whole model would lie beside low-rank updates, which loading puts into it, or if a push would not
                be of the whole model.
        """
        _refuse_pickles(kwargs.pop("safe_serialization", None))  # as versions of transformers before 5 call it
        others = {name: kwargs.pop(name) for name in [*kwargs] if name not in _SAVE_OPTIONS}
        of_push: dict[str, Any] = {}
        if push_to_hub:
            of_push = pushing_options(self, save_directory, push_to_hub, others)
            of_push["private"] = of_push.get("private") is not False
            given = {"state_dict": state_dict, "variant": variant, **kwargs}
            if partial := sorted(name for name in _PART_OPTIONS if given.get(name)):
                raise ValueError(f"push_to_hub=True must go with the whole model as it is, got {partial}")
        if self._hf_peft_config_loaded and not getattr(self, "peft_config", None):
            # PEFT has merged the updates: transformers believes them there, and would write their names.
            self._hf_peft_config_loaded = False
            vars(self).pop("_weight_conversions", None)
        if not self._hf_peft_config_loaded:
            if odd := _odd_weights(self, state_dict):
                raise ValueError(
                    f"weights of a new {type(self).__name__} of this configuration are wanted, got {odd}: merge "
                    "low-rank updates (`merge_and_unload`) or save them alone, and unwrap what wraps the layers"
                )
            if Path(save_directory, "adapter_config.json").exists():
                raise ValueError(
                    f"a folder without low-rank updates is wanted for a whole model, got {save_directory}: loading "
                    "would put them into the model"
                )
        super().save_pretrained(
            save_directory, is_main_process, state_dict, max_shard_size=max_shard_size, variant=variant, **kwargs
        )
        if push_to_hub and self.should_save_on_this_rank(is_main_process):
            self.push_to_hub(max_shard_size=max_shard_size, **of_push)

    def save_distributed_checkpoint(self, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the weights as they are spread over processes, as every model of transformers does.

        Raises:
            ValueError: if they shall be pushed, or as transformers does.
        """
        if push_to_hub:
            raise ValueError(
                "push_to_hub must be False for a distributed checkpoint: load it and push the whole model"
            )
        super().save_distributed_checkpoint(*args, **kwargs)

    def load_adapter(self, peft_model_id: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Put low-rank updates into the model as every model of transformers does, from safetensors alone, and whole.

        Raises:
            ValueError: if pickled weights are asked for, or if the updates lack weights.
            OSError: if the weights are not there, or not in safetensors.
        """
        _refuse_pickles(kwargs.get("use_safetensors"))
        if kwargs.pop("local_files_only", False):  # transformers hands it on where it is not known
            kwargs["adapter_kwargs"] = {"local_files_only": True, **(kwargs.get("adapter_kwargs") or {})}
        loading = kwargs.get("load_config")  # of `from_pretrained`, which looks at what is lacking itself
        checkpoint = peft_model_id or kwargs.get("pretrained_model_name_or_path")
        file = None
        if checkpoint is not None and kwargs.get("adapter_state_dict") is None:
            download = kwargs.get("download_kwargs") or getattr(loading, "download_kwargs", None) or {}
            file = check_holds_updates(checkpoint, {**download, **(kwargs.get("adapter_kwargs") or {})})
        report = super().load_adapter(peft_model_id, *args, **kwargs)
        if report.missing_keys and kwargs.get("hotswap") is not True:
            weights = load_file(file) if file is not None else kwargs["adapter_state_dict"]
            name = args[0] if args else kwargs.get("adapter_name")
            self._load_by_names_of_peft(report, weights, name or "default")
        if loading is None:
            refuse_lacking(checkpoint or "adapter_state_dict", report.missing_keys)
        return report

    def _load_by_names_of_peft(self, report: Any, weights: dict[str, Tensor], adapter_name: str) -> None:
        """Load updates once more, by PEFT, where transformers looks for other names than PEFT has written.

        So with the magnitudes of DoRA (transformers 5.24, PEFT 0.21), and with the ranks of AdaLoRA, which no file
        has.

        Args:
            report: of what transformers has loaded; what is lacking there is what the file lacks afterwards.
            weights: of the file.
            adapter_name: under which the updates have been put in.
        """
        peft = import_module("peft")
        weights = {name.removeprefix("base_model.model."): weight for name, weight in weights.items()}
        written = peft.get_peft_model_state_dict(self, adapter_name=adapter_name, save_embedding_layers=False)
        report.missing_keys = set(written) - set(weights)
        if not report.missing_keys:
            peft.set_peft_model_state_dict(self, weights, adapter_name=adapter_name)
            report.unexpected_keys = set(weights) - set(written)

    def enable_peft_hotswap(self, target_rank: int = 128, check_compiled: str = "error") -> None:
        """Refuse to get ready for low-rank updates of other ranks, which transformers then does not swap in.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"low-rank updates must be of one rank to be swapped, `load_adapter(..., hotswap=True)`, got target_rank="
            f"{target_rank} and check_compiled={check_compiled!r}"
        )

    def warn_if_padding_and_no_attention_mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """Warn once, as the language model does, of ids that look padded and come without a mask."""
        model: Any = self.base_model
        model.language_model.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)

    def active_adapters(self) -> list[str]:
        """Name the low-rank updates that act.

        Differs: transformers 5.24 asks first for a PEFT that is newer than the newest.

        Raises:
            ValueError: if there are none.
        """
        for module in self.modules():
            if isinstance(getattr(type(module), "active_adapters", None), property):  # a layer of PEFT
                return list(module.active_adapters)  # type: ignore[arg-type]
        raise ValueError("a model with low-rank updates in it is wanted, got one without")

    def get_adapter_state_dict(self, adapter_name: str | None = None, state_dict: Any = None) -> dict[str, Tensor]:
        """Return the weights of low-rank updates, of the first that act unless a name is given.

        Differs: as `active_adapters`.

        Args:
            adapter_name: as `load_adapter` was given it.
            state_dict: of this model, if it is brought together elsewhere.
        """
        name = adapter_name or self.active_adapters()[0]
        peft = import_module("peft")  # which has put the updates in
        return peft.get_peft_model_state_dict(self, state_dict=state_dict, adapter_name=name)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Embedding:
        """Resize the vocabulary as every model of transformers does, if the video token stays a part of it.

        Raises:
            ValueError: if it does not.
        """
        if new_num_tokens is not None:
            multiple = pad_to_multiple_of or 1
            size = -(-new_num_tokens // multiple) * multiple
            if size <= self.config.video_token_id:
                raise ValueError(
                    f"a vocabulary must keep the video token {self.config.video_token_id}, got one of {size} tokens"
                )
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, *args, **kwargs)

    def set_attn_implementation(self, attn_implementation: str | dict, *args: Any, **kwargs: Any) -> None:
        """Choose the attention of a model and its parts as transformers does, also that of its adapter."""
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        self._tell_attention()

    def _tell_attention(self) -> None:
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.implementation = self.config._attn_implementation or "sdpa"

    def post_init(self) -> None:
        """Finish a model as transformers does, and name only layers that it has: FSDP looks for each of them."""
        super().post_init()
        self._tell_attention()
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}  # type: ignore[operator]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (StateSpace, SelfAttention, CrossAttentionFusion, CosineFusion, AddFusion, QueryMamba)):
            module.reset_parameters()
        elif isinstance(module, (ContextMamba, TransformerAdapter, TemporalAdapter)):
            for name in ("temporal_position_embedding", "gate"):
                if getattr(module, name, None) is not None:
                    init.zeros_(getattr(module, name))


def _refuse_pickles(use_safetensors: bool | None) -> None:
    """Raise a `ValueError` if somebody has asked for pickles."""
    if use_safetensors is False:
        raise ValueError("weights in safetensors are wanted, got use_safetensors=False: pickles can hold programs")


def _odd_weights(model: Any, state_dict: dict[str, Tensor] | None) -> str:
    """Say which weights are not those of a new model of this class and configuration; of none, say nothing.

    Args:
        model: its quantiser may have put layers of its own into the place of others.
        state_dict: weights to look at instead of all of the model's; they may be a part of them.
    """
    new = build_without_weights(type(model), deepcopy(model.config))
    wanted = new.state_dict()
    held = model.state_dict() if state_dict is None else state_dict
    is_quantised = getattr(model, "hf_quantizer", None) is not None
    quantised = _quantised_layers(model, new) if is_quantised else set()
    odd = {}
    for name in wanted.keys() | held.keys():
        if name.rpartition(".")[0] in quantised or any(name.startswith(f"{layer}.") for layer in quantised):
            continue
        if name not in wanted:
            odd[name] = "no weight of it"
        elif name not in held:
            if state_dict is None:
                odd[name] = "missing"
        elif not _is_alike(held[name], wanted[name]) or not (is_quantised or _is_plain(held[name])):
            kind = type(held[name]).__name__
            shape = tuple(held[name].shape)
            odd[name] = f"{kind} {shape} in {held[name].dtype} instead of {tuple(wanted[name].shape)}"
    others = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
    return ", ".join(f"{name} ({what})" for name, what in sorted(odd.items())[:3]) + others


def _quantised_layers(model: Any, new: nn.Module) -> set[str]:
    """Name the layers that the quantiser of a model has put into the place of a new model's."""
    others = dict(new.named_modules())
    layers = [(name, module) for name, module in model.named_modules() if name in others and not [*module.children()]]
    return {name for name, layer in layers if type(layer) is not type(others[name])}


def _is_alike(weight: Tensor, wanted: Tensor) -> bool:
    return weight.shape == wanted.shape and weight.is_floating_point() == wanted.is_floating_point()


def _is_plain(weight: Tensor) -> bool:
    """Tell a tensor, also one that lies on several devices, from one that wraps others."""
    return type(weight.data) is Tensor or hasattr(weight, "device_mesh")
