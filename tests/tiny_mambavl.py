"""A tiny MambaVL: CLIP on single frames or another video model, and RoBERTa."""

from types import SimpleNamespace

import torch
from torch import nn
from transformers import CLIPVisionConfig, RobertaConfig

from hmba_hf.models.configuration_mambavl import MambaVLConfig
from hmba_hf.models.modeling_mambavl import MambaVLForVideoClassification

HEADS = {"verb": ["take", "put", "wash"], "noun": ["cup", "plate", "knife", "pan"]}
WORDS = 60
# Wide enough for texts to tell in a model of so few channels.
_SIZES = {"fusion_layers": 2, "initializer_range": 0.2}


class Table(nn.Module):
    """A text model that looks tokens up."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, input_ids, **kwargs):
        return SimpleNamespace(last_hidden_state=self.tokens[input_ids])


def tiny_vision_config(**values):
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16}
    return CLIPVisionConfig(**{"hidden_size": 32, "patch_size": 8, **sizes, **values})


def tiny_text_config(**values):
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": WORDS}
    return RobertaConfig(**{"hidden_size": 24, "max_position_embeddings": 50, "pad_token_id": 1, **sizes, **values})


def tiny_config(**values):
    parts = {"vision_config": tiny_vision_config(), "text_config": tiny_text_config()}
    return MambaVLConfig(**{**parts, "heads": HEADS, "state_size": 4, **_SIZES, **values})


def tiny_model(seed=0, **values):
    torch.manual_seed(seed)
    return MambaVLForVideoClassification(tiny_config(**values)).eval()


def tiny_batch(batch=2, heads=2, length=5, frames=3, seed=0):
    """Clips, and one question for each head; the last two tokens of the first question are padding."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, heads, length, dtype=torch.long)
    mask[0, 0, -2:] = 0
    ids = torch.randint(5, WORDS, (batch, heads, length), generator=draw)
    return {
        "pixel_values_videos": torch.rand(batch, frames, 3, 16, 16, generator=draw),
        "input_ids": ids.masked_fill(mask == 0, 1),
        "attention_mask": mask,
    }
