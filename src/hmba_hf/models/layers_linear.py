"""A linear layer whose product is computed by the faster library, and how layers of other models become one."""

from torch import Tensor, nn

from .ops_linear import linear


class Linear(nn.Linear):
    """Torch's linear layer, with the product of `ops_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Project `(..., in)` to `(..., out)`."""
        return linear(x, self.weight, self.bias)


IMPLEMENTATIONS: dict[str, type[nn.Linear]] = {"auto": Linear, "torch": nn.Linear}


def set_linear_implementation(model: nn.Module, implementation: str = "auto") -> None:
    """Choose who multiplies in the linear layers of a model, such as a vision tower or a language model.

    Only layers that are torch's own, or `Linear`, change, and of them only the class: weights, names and saved files
    stay what they are. Quantised layers and those of PEFT stay as they are.

    Args:
        model: of torch; it is changed in place.
        implementation: `"auto"`, the faster of two libraries (see `hmba_hf.show_backends`), or `"torch"`.

    Raises:
        ValueError: if there is no such implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {list(IMPLEMENTATIONS)}, got {implementation!r}")
    for module in model.modules():
        if type(module) in IMPLEMENTATIONS.values():
            module.__class__ = IMPLEMENTATIONS[implementation]
