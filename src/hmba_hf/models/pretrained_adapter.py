"""The base class of all models with a temporal adapter: loading and saving them whole, initialising new weights."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from .loading_checkpoints import (  # first: it refuses an old transformers
    check_holds_updates,
    check_index,
    check_quantised,
    file_options,
    refuse_lacking,
    refuse_other_files,
    refuse_pickles,
)
from .loading_options import pushing_options

# isort: split
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .configuration_adapter import TemporalAdapterConfig
from .joining_adapter import device_map_of
from .layers_baseline_adapters import SelfAttention, TransformerAdapter
from .layers_context_fusion import AddFusion, CosineFusion, CrossAttentionFusion
from .layers_state_space import CausalConv1d, StateSpace, compile_kernels_of
from .layers_temporal_adapter import ContextMamba, QueryMamba, TemporalAdapter
from .loading_quantised import keep_savable
from .loading_transformers import CACHE_NAMES
from .loading_weights import build_without_weights, check_loads_back

# Options of `save_pretrained` about files; all others are for `push_to_hub`.
_SAVE_OPTIONS = ("save_peft_format", "save_original_format", "distributed_checkpoint")
# Options that save something other than the whole model.
_PART_OPTIONS = ("state_dict", "variant", "distributed_checkpoint")


class AdapterPreTrainedModel(PreTrainedModel):
    """The base class of all models with a temporal adapter: loading, saving, initialisation.

    Names with an underscore are those of transformers, which has no public way to set or extend them.
    """

    config: TemporalAdapterConfig
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

        Weights that the checkpoint's own configuration does not have are initialised, such as those of a temporal
        adapter, `adapter="mamba"`, for a base without one. `output_loading_info=True` returns the report in place of
        the check of missing weights.

        Raises:
            ValueError: if pickled weights are wanted, if a list of shards leads out of the checkpoint or names none,
                if the checkpoint or low-rank updates lack weights or are not quantised as their config says, or if
                layers shall be fused.
            OSError: if weights are missing, damaged, or not in safetensors.
        """
        refuse_other_files(kwargs)
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
                raise  # a missing shard does not imply pickles
            raise OSError(f"weights must be in safetensors, for H-MBA never loads pickles: {error}") from error
        except SafetensorError as error:
            raise OSError(
                f"{pretrained_model_name_or_path} must hold whole weights, got a torn file: {error}"
            ) from error
        model, report = loaded
        check_quantised(model, pretrained_model_name_or_path)
        keep_savable(model)
        lacking = vars(model).pop("_lacking", set())
        if kwargs.get("key_mapping"):
            vars(model).pop("_weight_conversions", None)  # a save would write the foreign names, which no load takes
        if wants_report:
            report["missing_keys"] |= lacking
            return model, report
        if pretrained_model_name_or_path is None:  # the caller passed the weights, and may leave some out
            return model
        if model._hf_peft_config_loaded:
            updates = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path", pretrained_model_name_or_path)
            refuse_lacking(updates, report["missing_keys"])
        if lacking:
            held = type(model.config).from_pretrained(model.name_or_path, **file_options(kwargs))
            lacking &= build_without_weights(cls, held).state_dict().keys()
        refuse_lacking(model.name_or_path, lacking)
        return model

    @staticmethod
    def _load_pretrained_model(model: Any, *args: Any, **kwargs: Any) -> Any:
        """Compile kernels while the weights are read."""
        compile_kernels_of(model)
        return PreTrainedModel._load_pretrained_model(model, *args, **kwargs)

    @staticmethod
    def _finalize_model_loading(model: Any, load_config: Any, loading_info: Any) -> Any:
        """Keep the names of missing weights: the report of `from_pretrained` may be about low-rank updates."""
        loading_info = PreTrainedModel._finalize_model_loading(model, load_config, loading_info)
        model._lacking = set(loading_info.missing_keys)
        return loading_info

    def save_pretrained(  # type: ignore[override]  # the other options are in `kwargs`
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

        Differs: `push_to_hub=True` calls the method of that name with its options. So it pushes to a private
        repository unless `private=False` is given; `repo_id` is the folder's name when absent.

        Raises:
            ValueError: if names, shapes or kinds of the weights are not those of a new model of this configuration,
                if a whole model would lie beside low-rank updates, which loading puts into it, or if a push would not
                be of the whole model.
        """
        refuse_pickles(kwargs.pop("safe_serialization", None))  # the option's name before transformers 5
        others = {name: kwargs.pop(name) for name in [*kwargs] if name not in _SAVE_OPTIONS}
        of_push: dict[str, Any] = {}
        if push_to_hub:
            of_push = pushing_options(self, save_directory, push_to_hub, others)
            of_push["private"] = of_push.get("private") is not False
            given = {"state_dict": state_dict, "variant": variant, **kwargs}
            if partial := sorted(name for name in _PART_OPTIONS if given.get(name)):
                raise ValueError(f"push_to_hub=True must push the whole model as it is, got {partial}")
        if self._hf_peft_config_loaded and not getattr(self, "peft_config", None):
            # PEFT has merged the updates, but transformers still has their mark and would write their names.
            self._hf_peft_config_loaded = False
            vars(self).pop("_weight_conversions", None)
        if not self._hf_peft_config_loaded:
            check_loads_back(self, state_dict)
            if Path(save_directory, "adapter_config.json").exists():
                raise ValueError(
                    f"the folder of a whole model must be without low-rank updates, got {save_directory}: loading "
                    "would put them into the model"
                )
            if state_dict is None:
                state_dict = _with_own_memory(self)
                _tell_places(self)
        super().save_pretrained(
            save_directory, is_main_process, state_dict, max_shard_size=max_shard_size, variant=variant, **kwargs
        )
        if push_to_hub and self.should_save_on_this_rank(is_main_process):
            self.push_to_hub(max_shard_size=max_shard_size, **of_push)

    def project_frame_features(self, frame_features: Tensor) -> dict[str, Tensor]:
        """Return what `adapt_frame_features` takes as `projected`, frame by frame; see `ContextMamba.project_frames`.

        Args:
            frame_features: as there, `(b, t, p, d)`.
        """
        adapter: Any = self.base_model.temporal_adapter
        if not isinstance(adapter, TemporalAdapter):
            return {}
        weight = next(adapter.parameters())
        if weight.is_meta:
            return {}
        return adapter.project_frames(frame_features.to(weight.device, weight.dtype))

    def save_distributed_checkpoint(self, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the weights as they are sharded over processes, as every model of transformers does.

        Raises:
            ValueError: if they shall be pushed, or as transformers does.
        """
        if push_to_hub:
            raise ValueError(
                "push_to_hub must be False for a distributed checkpoint, got True: load it and push the whole model"
            )
        super().save_distributed_checkpoint(*args, **kwargs)

    def load_adapter(self, peft_model_id: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Put low-rank updates into the model as every model of transformers does, from safetensors alone, and whole.

        Raises:
            ValueError: if pickled weights are wanted, or if the updates lack weights.
            OSError: if there are no weights, or none in safetensors.
        """
        refuse_pickles(kwargs.get("use_safetensors"))
        if kwargs.pop("local_files_only", False):  # transformers passes it to a function that does not take it
            kwargs["adapter_kwargs"] = {"local_files_only": True, **(kwargs.get("adapter_kwargs") or {})}
        loading = kwargs.get("load_config")  # of `from_pretrained`, which refuses missing weights itself
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
        """Load updates once more, by PEFT, where transformers expects other names than PEFT writes.

        That is so for the magnitudes of DoRA (transformers 5.24, PEFT 0.21), and for the ranks of AdaLoRA, which no
        file has.

        Args:
            report: of transformers; afterwards it names as missing what the file lacks.
            weights: of the file.
            adapter_name: of the updates in the model.
        """
        peft = import_module("peft")
        weights = {name.removeprefix("base_model.model."): weight for name, weight in weights.items()}
        written = peft.get_peft_model_state_dict(self, adapter_name=adapter_name, save_embedding_layers=False)
        report.missing_keys = set(written) - set(weights)
        if not report.missing_keys:
            peft.set_peft_model_state_dict(self, weights, adapter_name=adapter_name)
            report.unexpected_keys = set(weights) - set(written)

    def enable_peft_hotswap(self, target_rank: int = 128, check_compiled: str = "error") -> None:
        """Refuse to prepare for low-rank updates of other ranks, which transformers then fails to swap in.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "low-rank updates must have one rank to be swapped by `load_adapter(..., hotswap=True)`, got target_rank="
            f"{target_rank} and check_compiled={check_compiled!r}"
        )

    def active_adapters(self) -> list[str]:
        """Return the names of the active low-rank updates.

        Differs: transformers 5.24 requires a PEFT newer than the newest.

        Raises:
            ValueError: if there are none.
        """
        for module in self.modules():
            if isinstance(getattr(type(module), "active_adapters", None), property):  # a layer of PEFT
                return list(module.active_adapters)  # type: ignore[arg-type]  # torch types it as a part
        raise ValueError("the model must have low-rank updates in it, got one without")

    def get_adapter_state_dict(self, adapter_name: str | None = None, state_dict: Any = None) -> dict[str, Tensor]:
        """Return the weights of low-rank updates, of the first active ones unless a name is given.

        Differs: as `active_adapters`.

        Args:
            adapter_name: as given to `load_adapter`.
            state_dict: of this model, if it was gathered elsewhere.
        """
        name = adapter_name or self.active_adapters()[0]
        peft = import_module("peft")  # installed, for it has put the updates in
        return peft.get_peft_model_state_dict(self, state_dict=state_dict, adapter_name=name)

    def set_attn_implementation(self, attn_implementation: str | dict, *args: Any, **kwargs: Any) -> None:
        """Choose the attention of a model and its parts as transformers does, also that of its adapter."""
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        self._set_attention_of_adapter()

    def _set_attention_of_adapter(self) -> None:
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.implementation = self.config._attn_implementation or "sdpa"

    def post_init(self) -> None:
        """Finish a model as transformers does, and name for FSDP only layers that it has."""
        super().post_init()
        self._set_attention_of_adapter()
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}  # type: ignore[operator]  # transformers makes a set of it

    def initialize_weights(self) -> None:
        """Initialise weights and buffers that no checkpoint has given, those of the parts by their own rules.

        Differs: transformers takes the parts for custom code, as the whole model is, and passes over modules without
        weights of their own. So buffers that FalconH1 sets in its layers would stay empty memory.
        """
        within: str | None = None
        for name, module in self.named_modules():
            if within is not None and name.startswith(within):
                continue
            if isinstance(module, PreTrainedModel) and not module.is_custom_code():
                within = f"{name}."
                module.initialize_weights()
        super().initialize_weights()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CausalConv1d):
            init.normal_(module.weight)  # before `StateSpace` draws it: a seed gives the weights that it always gave
        elif isinstance(
            module, (StateSpace, SelfAttention, CrossAttentionFusion, CosineFusion, AddFusion, QueryMamba)
        ):
            module.reset_parameters()
        elif isinstance(module, (ContextMamba, TransformerAdapter, TemporalAdapter)):
            for name in ("temporal_position_embedding", "gate"):
                if getattr(module, name, None) is not None:
                    init.zeros_(getattr(module, name))


def _tell_places(model: Any) -> None:
    """Tell transformers where the layers of a model lie that accelerate has offloaded by hand, so that it reads them.

    Raises:
        ValueError: if a weight has no value anywhere.
    """
    empty = {name for name, weight in model.named_parameters() if weight.is_meta}
    for name, module in model.named_modules():
        if hasattr(module, "_hf_hook"):
            empty -= {f"{name}.{weight}" for weight, _ in module.named_parameters(recurse=False)}
    if empty:
        raise ValueError(f"weights must have values to be saved, got {len(empty)} without, such as {min(empty)}")
    if getattr(model, "hf_device_map", None) is None and any(weight.is_meta for weight in model.parameters()):
        model.hf_device_map = device_map_of(model)


def _with_own_memory(model: Any) -> dict[str, Tensor] | None:
    """Return all weights, with a copy of those tied by hand; `None` if the configuration knows of all that are tied.

    Transformers would leave out a head that shares its memory with the embeddings, whatever the configuration says.
    """
    known = model.all_tied_weights_keys
    seen: dict[tuple[Any, ...], str] = {}
    copies = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if weight.is_meta or type(weight.data) is not Tensor or name in known:
            continue
        memory = (weight.device, weight.data_ptr(), weight.shape)
        if seen.setdefault(memory, name) != name:
            copies[name] = weight.detach().clone()
    return {**model.state_dict(), **copies} if copies else None
