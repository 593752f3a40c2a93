"""H-MBA on tiny vision-language models, with an adapter that acts."""

import torch

from hmba_hf import HMBAVLMConfig, HMBAVLMForConditionalGeneration
from tiny_models import open_adapter
from tiny_vlm_bases import TinyVLM

# Three bases whose `get_image_features` return a tuple with features for deeper layers, a tensor, and a list.
KINDS = ("qwen3_vl", "internvl", "smolvlm")


def model_on(vlm: TinyVLM, **values) -> HMBAVLMForConditionalGeneration:
    """Build a model on a tiny base with an adapter that acts; `values` are the adapter's."""
    torch.manual_seed(0)
    model = HMBAVLMForConditionalGeneration(HMBAVLMConfig(base_config=vlm.model.config, **values)).eval()
    model.model.base.load_state_dict(vlm.model.state_dict())
    open_adapter(model.model.temporal_adapter)
    return model
