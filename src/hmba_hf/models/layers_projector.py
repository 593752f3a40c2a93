"""The projector of LLaVA-1.5, from the vision tower's features to the language model's embeddings."""

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .layers_linear import Linear


class TwoLayerProjector(nn.Module):
    """Project features by two linear layers with an activation between them.

    Args:
        in_features: channels of a patch.
        out_features: width of the language model's embeddings.
        hidden_act: name of the activation, one of transformers'.

    Raises:
        ValueError: if there is no such activation.

    Source: Liu et al. 2023, arXiv:2310.03744, section 3; transformers' `LlavaMultiModalProjector`.
    """

    def __init__(self, in_features: int, out_features: int, hidden_act: str):
        super().__init__()
        if hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be one of transformers' activations, got {hidden_act!r}")
        self.linear_1 = Linear(in_features, out_features)
        self.act = ACT2FN[hidden_act]
        self.linear_2 = Linear(out_features, out_features)

    @property
    def bias(self) -> torch.Tensor:
        """The bias of the first layer, whose dtype callers give to the features."""
        return self.linear_1.bias

    def forward(self, features: Tensor) -> Tensor:
        """Project `(..., in_features)` to `(..., out_features)`."""
        return self.linear_2(self.act(self.linear_1(features)))
