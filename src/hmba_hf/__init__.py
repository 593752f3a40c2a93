"""Video models on Mamba for Hugging Face: H-MBA, which answers questions about drives, VideoMamba, and MambaVL.

Importing this package registers its models with the Auto classes and the `video-text-to-text` pipeline. As in
transformers, what that needs is imported when it is first used: a name of this package, or transformers' Auto classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers.utils.versions import require_version

from .late_imports import after_importing

if TYPE_CHECKING:
    from .registration import *  # noqa: F403

__version__ = "0.2.0.dev0"

require_version("transformers>=5.19", "Run `pip install -U 'transformers>=5.19'`")


def __getattr__(name: str) -> Any:
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    registration = import_module(f"{__name__}.registration")
    if name == "__all__" or name in registration.__all__:
        globals()[name] = getattr(registration, name)
    if name not in globals():  # else it is a part of the package, which the registration has imported
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})


after_importing("transformers.models.auto.configuration_auto", f"{__name__}.registration")
