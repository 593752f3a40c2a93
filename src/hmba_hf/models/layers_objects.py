"""Objects in a clip by their boxes: as tokens beside the patches, and as pictures of how they move.

A box is the centre, width and height of an object in parts of the frame, and zero where there is none.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers_trajectories import FeedForward, TrajectoryBlock

# The released code paints an object through a picture of so many pixels a side, whose edges blur by one of them.
_PAINTED_SIDE = 8


def box_corners(boxes: Tensor) -> Tensor:
    """Return left, top, right and bottom of boxes, `(..., 4)`."""
    centres, sides = boxes.split(2, dim=-1)
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)


def crop_boxes(patches: Tensor, boxes: Tensor) -> Tensor:
    """Return what boxes hold, each as large as its frame, at the centres of as many bins; zeros where there is none.

    This is `torchvision.ops.roi_align` for boxes that do not leave their frame.

    Args:
        patches: of clips, `(b, t, rows, columns, d)`.
        boxes: `(b, t, objects, 4)`.

    Returns:
        `(b, t, objects, rows, columns, d)`.
    """
    rows, columns = patches.shape[2:4]
    wide = torch.promote_types(patches.dtype, torch.float32)
    corners = box_corners(boxes.to(wide)).flatten(0, 1)  # (b * t, objects, 4)
    across = _bin_centres(corners[..., 0], corners[..., 2], columns)
    down = _bin_centres(corners[..., 1], corners[..., 3], rows)
    grid = torch.stack(
        [across[:, :, None].expand(-1, -1, rows, -1), down[..., None].expand(-1, -1, -1, columns)], dim=-1
    )
    cropped = functional.grid_sample(
        patches.flatten(0, 1).permute(0, 3, 1, 2).to(wide),
        2 * grid.flatten(1, 2) - 1,
        padding_mode="border",
        align_corners=False,
    )  # (b * t, d, objects * rows, columns)
    cropped = cropped.unflatten(2, (-1, rows)).permute(0, 2, 3, 4, 1).unflatten(0, patches.shape[:2])
    return (cropped * _is_object(boxes)[..., None, None, None]).to(patches.dtype)


def paint_boxes(vectors: Tensor, boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Return pictures of clips with a vector wherever its box is, and the sum where boxes overlap.

    Args:
        vectors: `(b, t, objects, d)`.
        boxes: `(b, t, objects, 4)`.
        rows, columns: of the pictures.

    Returns:
        `(b, t, rows, columns, d)`.

    Source: roeiherz/AG2Video, `layout.py`, from which eladb3/ORViT has it. It takes the right and lower edges for
        width and height. So a painted box begins at its left upper corner, and is as large as the part of the frame
        up to its right lower one.
    """
    corners = box_corners(boxes)
    is_object = _is_object(boxes)
    across = _coverage(corners[..., 0], corners[..., 2].where(is_object, 1.0), columns) * is_object[..., None]
    down = _coverage(corners[..., 1], corners[..., 3].where(is_object, 1.0), rows)
    return torch.einsum("btor,btoc,btod->btrcd", down.to(vectors.dtype), across.to(vectors.dtype), vectors)


def _is_object(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] > 0).all(dim=-1)


def _bin_centres(start: Tensor, end: Tensor, count: int) -> Tensor:
    """Return the centres of bins of equal size from `start` to `end`, `(..., count)`."""
    parts = (torch.arange(count, dtype=start.dtype, device=start.device) + 0.5) / count
    return start[..., None] + parts * (end - start)[..., None]


def _coverage(start: Tensor, extent: Tensor, count: int) -> Tensor:
    """Return how far points spread over the whole frame lie within an extent, from 0 to 1, `(..., count)`."""
    points = torch.linspace(0, 1, count, dtype=start.dtype, device=start.device)
    pixels = (points - start[..., None]) / extent[..., None] * (_PAINTED_SIDE - 1)
    return torch.minimum(pixels + 1, _PAINTED_SIDE - pixels).clamp(0, 1)


class ObjectProjection(nn.Module):
    """Two linear layers without bias, each with a ReLU behind it: nothing stays nothing.

    Args:
        in_size: channels in.
        hidden_size: channels out; half of them are between the layers.
    """

    def __init__(self, in_size: int, hidden_size: int):
        super().__init__()
        self.fc1 = nn.Linear(in_size, hidden_size // 2, bias=False)
        self.fc2 = nn.Linear(hidden_size // 2, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Project `(..., in_size)` to `(..., hidden_size)`."""
        return functional.relu(self.fc2(functional.relu(self.fc1(x))))


class JointAttention(nn.Module):
    """Attention of all tokens to all.

    Args:
        hidden_size: channels.
        num_heads: of attention.
    """

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens, `(b, n, d)`."""
        parts = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class JointBlock(nn.Module):
    """A pre-norm transformer block.

    Args:
        hidden_size: channels.
        num_heads: of attention.
        intermediate_size: channels within the feed-forward layers.
        eps: of the norms.
    """

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=eps)
        self.attention = JointAttention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=eps)
        self.mlp = FeedForward(hidden_size, intermediate_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens, `(b, n, d)`."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class MotionStream(nn.Module):
    """Pictures of how objects move, made of nothing but their boxes in all frames.

    Args:
        hidden_size, num_heads, intermediate_size, eps: as in `JointBlock`.
        num_frames, num_objects: of a clip.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        eps: float,
        num_frames: int,
        num_objects: int,
    ):
        super().__init__()
        self.object_embeddings = nn.Parameter(torch.zeros(num_frames, num_objects, hidden_size))
        self.box_projection = ObjectProjection(4, hidden_size)
        self.block = JointBlock(hidden_size, num_heads, intermediate_size, eps)

    def forward(self, boxes: Tensor, rows: int, columns: int) -> Tensor:
        """Return pictures, `(b, t, rows, columns, d)`, of boxes, `(b, t, objects, 4)`."""
        moving = self.box_projection(boxes.to(self.object_embeddings.dtype)) + self.object_embeddings
        mixed = self.block(moving.flatten(1, 2)).view_as(moving)
        return paint_boxes(mixed, boxes, rows, columns)


class ObjectBlock(TrajectoryBlock):
    """A block whose attention reads objects beside the patches of each frame, and which adds how they move.

    Args:
        hidden_size, num_heads, intermediate_size, eps: as in `TrajectoryBlock`.
        num_frames, num_objects: of a clip.

    Source: Herzig et al. 2022, arXiv:2110.06915; eladb3/ORViT.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        eps: float,
        num_frames: int,
        num_objects: int,
    ):
        super().__init__(hidden_size, num_heads, intermediate_size, eps)
        self.object_embeddings = nn.Parameter(torch.zeros(num_frames, num_objects, hidden_size))
        self.crop_projection = ObjectProjection(hidden_size, hidden_size)
        self.box_projection = ObjectProjection(4, hidden_size)
        self.motion_stream = MotionStream(
            hidden_size,
            num_heads,
            intermediate_size,
            eps,
            num_frames=num_frames,
            num_objects=num_objects,
        )
        self.motion_mlp = FeedForward(hidden_size, intermediate_size)

    def mix(self, tokens: Tensor, boxes: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Return what attention and the motion of objects add; arguments as in `forward`."""
        num_frames, rows, columns = size
        patches = tokens[:, 1:].unflatten(1, size)
        objects = self.crop_projection(crop_boxes(patches, boxes)).amax(dim=(3, 4))
        objects = objects + self.box_projection(boxes.to(tokens.dtype)) + self.object_embeddings
        in_frames = torch.cat([patches.flatten(2, 3), objects], dim=2)
        mixed = self.attention(self.norm1(torch.cat([tokens[:, :1], in_frames.flatten(1, 2)], dim=1)), num_frames)
        mixed_patches = mixed[:, 1:].unflatten(1, (num_frames, -1))[:, :, : rows * columns].flatten(1, 2)
        motion = self.motion_mlp(self.motion_stream(boxes, rows, columns))
        return torch.cat([mixed[:, :1], mixed_patches + motion.flatten(1, 3)], dim=1)
