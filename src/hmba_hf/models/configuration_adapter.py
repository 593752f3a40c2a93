"""The values of a temporal adapter, which the configurations of all models with one share, and their checks."""

from typing import Any

from .loading_checkpoints import (
    check_quantization_config,
    unknown_private_keys,
)  # first: it refuses an old transformers

# isort: split
from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

BRANCHES = ("temporal", "divided_space_time", "joint_space_time")
ADAPTERS = ("mamba", "none", "mean", "transformer")
FUSIONS = ("query", "cosine", "add", "concat")


@strict
class TemporalAdapterConfig(PreTrainedConfig):
    """The values of a temporal adapter, as a base of configurations.

    Args:
        num_frames: rows of the temporal position table, the clip length that the model is trained on.
        adapter: `"mamba"` for H-MBA, or a baseline: `"none"` (current frame only), `"mean"`, `"transformer"`.
        temporal_strides: steps in which frames are counted back from the current one.
        branches: scans to read, of `"temporal"`, `"divided_space_time"` and `"joint_space_time"`.
        bidirectional_time: scan `"divided_space_time"` over time in both directions.
        share_mixers: share mixers between the spatial scans, and one norm between all.
        fusion: how the current frame selects context: `"query"`, `"cosine"`, `"add"` or `"concat"`.
        fusion_weights: constant weight of each branch, for the `"cosine"` fusion only; 1 when absent.
        adapter_num_heads: attention heads of the `"query"` fusion and of the `"transformer"` baseline.
        latent_mamba: let a latent Mamba mix the patches after the fusion.
        gated: add the result through a learned gate that starts at zero; else add it as it is.
        state_size, conv_kernel, expand: of every Mamba mixer in the adapter.

    Raises:
        ValueError: if a value is unknown or out of range.

    Source: arXiv:2501.04302 (defaults); Sranc3/H-MBA (`released`).
    """

    num_frames: int = 5
    adapter: str = "mamba"
    temporal_strides: list[int] | tuple[int, ...] = (1, 2)
    branches: list[str] | tuple[str, ...] = BRANCHES
    bidirectional_time: bool = True
    share_mixers: bool = False
    fusion: str = "query"
    fusion_weights: dict[str, float] | None = None
    adapter_num_heads: int = 8
    latent_mamba: bool = True
    gated: bool = True
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2

    @classmethod
    def released(cls, **kwargs: Any) -> Any:
        """Return the configuration of the released code, for parity with it; `kwargs` override single values.

        Another `fusion` takes no `fusion_weights`.
        """
        is_cosine = kwargs.get("fusion", "cosine") == "cosine"
        preset = {
            "temporal_strides": (1,),
            "branches": ("divided_space_time", "joint_space_time"),
            "bidirectional_time": False,
            "share_mixers": True,
            "fusion": "cosine",
            "fusion_weights": {"divided_space_time": 0.005, "joint_space_time": 0.11} if is_cosine else None,
            "latent_mamba": False,
            "gated": False,
        }
        return cls(**{**preset, **kwargs})

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.temporal_strides = list(self.temporal_strides)
        self.branches = list(self.branches)

    def check_adapter(self, width: int, whose: str) -> None:
        """Check the values of the adapter.

        Args:
            width: channels of the features that the adapter works on.
            whose: names them in errors.

        Raises:
            ValueError: if a value is unknown or out of range, also for one set after construction.
        """
        self._check_choices()
        self._check_ranges()
        attends = self.adapter == "transformer" or (self.adapter == "mamba" and self.fusion == "query")
        if attends and width % self.adapter_num_heads:
            raise ValueError(
                f"{whose} hidden_size must be a multiple of adapter_num_heads={self.adapter_num_heads}, got {width}"
            )

    def _check_choices(self) -> None:
        for name, allowed in (("adapter", ADAPTERS), ("fusion", FUSIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}")
        if not self.branches or set(self.branches) - set(BRANCHES) or len(set(self.branches)) < len(self.branches):
            raise ValueError(f"branches must be one or more of {list(BRANCHES)}, each once, got {self.branches}")
        if self.fusion_weights is None:
            return
        if self.fusion != "cosine":
            raise ValueError(f"fusion_weights must be absent unless fusion is 'cosine', got fusion={self.fusion!r}")
        if set(self.fusion_weights) != set(self.branches):
            raise ValueError(
                f"fusion_weights must name each of the branches {self.branches}, got {sorted(self.fusion_weights)}"
            )

    def _check_ranges(self) -> None:
        for name in ("num_frames", "state_size", "conv_kernel", "expand", "adapter_num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        strides = self.temporal_strides
        if not strides or min(strides) < 1 or len(set(strides)) < len(strides):
            raise ValueError(f"temporal_strides must be different integers of at least 1, got {strides}")

    def _check_keys(self, others: dict[str, Any], model: str) -> None:
        """Check names that would become attributes: a private one might change what transformers does.

        Args:
            others: values that are no fields.
            model: what it is, for errors.
        """
        configs = {"config": others, **{name: getattr(self, name) for name in self.sub_configs}}
        check_quantization_config({**others, **configs}, model)
        for name, config in configs.items():
            if isinstance(config, dict) and (unknown := unknown_private_keys(config)):
                raise ValueError(f"{name} must hold no private keys, which begin with an underscore, got {unknown}")

    def _without_private_keys(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return a configuration as a dict, without what an older transformers has left in its parts."""
        for name in self.sub_configs:
            config[name] = {key: value for key, value in config[name].items() if not unknown_private_keys([key])}
        return config
