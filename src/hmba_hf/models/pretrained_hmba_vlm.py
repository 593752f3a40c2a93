"""The base class of all models that put a temporal adapter on a vision-language model."""

from .pretrained_adapter import AdapterPreTrainedModel  # first: it refuses an old transformers

# isort: split
from .configuration_hmba_vlm import HMBAVLMConfig


class HMBAVLMPreTrainedModel(AdapterPreTrainedModel):
    """The base class of all models that put a temporal adapter on a vision-language model.

    The adapter stays in float32 when a model is loaded in another dtype, as a base in bfloat16 or in 4 bits.
    """

    config: HMBAVLMConfig
    input_modalities = ["image", "text"]
    _keep_in_fp32_modules_strict = ["temporal_adapter"]
    _can_compile_fullgraph = False  # how many frames a clip has is read from a tensor
