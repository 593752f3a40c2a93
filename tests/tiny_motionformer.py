"""A tiny Motionformer that sees objects, and clips and boxes for it."""

import torch

from hmba_hf import MambaVLMotionformerConfig, MambaVLMotionformerModel

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}


def tiny_motionformer_config(**values):
    shape = {"image_size": 16, "patch_size": 8, "num_frames": 4, "object_layers": [1, 2], "num_objects": 3}
    return MambaVLMotionformerConfig(**{**SIZES, **shape, **values})


def tiny_motionformer(**values):
    """One whose times and biases are not zero, as those of a trained one."""
    torch.manual_seed(0)
    model = MambaVLMotionformerModel(tiny_motionformer_config(initializer_range=0.3, **values)).eval()
    torch.nn.init.normal_(model.temporal_embeddings)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def clips_of(frames=4, side=16):
    return torch.rand(2, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


def boxes_of(frames=4):
    """Boxes within their frames; two objects are missing from some."""
    draw = torch.Generator().manual_seed(2)
    start = 0.6 * torch.rand(2, frames, 3, 2, generator=draw)
    sides = (1 - start) * (0.2 + 0.8 * torch.rand(start.shape, generator=draw))
    boxes = torch.cat([start + sides / 2, sides], dim=-1)
    boxes[0, 2, 1] = 0.0
    boxes[1, :, 0] = 0.0
    return boxes
