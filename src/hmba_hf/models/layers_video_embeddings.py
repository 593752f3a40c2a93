"""Embeddings of a clip: patches or tubelets, a class token, tables of places and of times."""

import torch
from torch import Tensor, nn

from .layers_conditions import require


class PatchEmbeddings(nn.Module):
    """Cut a clip into tubelets and project each to a token, frame after frame, row after row.

    Args:
        hidden_size: width of a token.
        num_channels: of a frame.
        patch_size: height and width of a patch in pixels.
        tubelet_size: frames that one token covers.
    """

    def __init__(self, hidden_size: int, num_channels: int, patch_size: tuple[int, int], tubelet_size: int):
        super().__init__()
        self.num_channels = num_channels
        self.kernel_size = (tubelet_size, *patch_size)
        self.projection = nn.Conv3d(num_channels, hidden_size, self.kernel_size, stride=self.kernel_size)

    def forward(self, pixel_values_videos: Tensor) -> Tensor:
        """Embed clips, `(b, t, channels, height, width)`, as `(b, t / tubelet_size, rows, columns, d)`.

        Raises:
            ValueError: if the clips have another shape, are no floats or not finite, or if patches or tubelets would
                not cover them.
        """
        shape = tuple(pixel_values_videos.shape)
        channels = self.num_channels
        if len(shape) != 5 or 0 in shape or shape[2] != channels:
            raise ValueError(f"pixel_values_videos must be (batch, frames, {channels}, height, width), got {shape}")
        if not pixel_values_videos.is_floating_point():
            raise ValueError(
                f"pixel_values_videos must be floats, as a processor makes them, got {pixel_values_videos.dtype}"
            )
        sides = {"frames": shape[1], "height": shape[3], "width": shape[4]}
        for (name, side), step in zip(sides.items(), self.kernel_size, strict=True):
            if side % step:
                size = "tubelet_size" if name == "frames" else "patch_size"
                raise ValueError(f"pixel_values_videos must have {name} in multiples of {size}={step}, got {side}")
        require(torch.isfinite(pixel_values_videos).all(), "pixel_values_videos must be finite, got NaN or infinity")
        embedded = self.projection(pixel_values_videos.transpose(1, 2).to(self.projection.weight.dtype))
        return embedded.permute(0, 2, 3, 4, 1)


class VideoEmbeddings(nn.Module):
    """The tokens of a clip: one class token, then its patches in the order of time, each with its place and time.

    A clip of one frame is a picture: no time is added to it.

    Args:
        hidden_size: width of a token.
        num_channels: of a frame.
        frame_size: height and width of a frame in pixels, which the table of places is for.
        patch_size: height and width of a patch in pixels.
        num_frames: which the table of times is for; there is none for one frame.
        tubelet_size: frames that one token covers.

    Source: Li et al. 2024, arXiv:2403.06977, section 3.2.
    """

    def __init__(
        self,
        hidden_size: int,
        num_channels: int,
        frame_size: tuple[int, int],
        patch_size: tuple[int, int],
        num_frames: int,
        tubelet_size: int,
    ):
        super().__init__()
        self.num_frames = num_frames
        self.tubelet_size = tubelet_size
        self.grid = (frame_size[0] // patch_size[0], frame_size[1] // patch_size[1])
        self.patch_embeddings = PatchEmbeddings(hidden_size, num_channels, patch_size, tubelet_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        num_patches = self.grid[0] * self.grid[1]
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + num_patches, hidden_size))
        self.temporal_embeddings = None
        if num_frames > 1:
            times = num_frames // tubelet_size
            self.temporal_embeddings = nn.Parameter(torch.zeros(1, times, hidden_size))

    def forward(self, pixel_values_videos: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Embed clips, `(b, t, channels, height, width)`, as `(b, 1 + t / tubelet_size * p, d)`.

        Args:
            pixel_values_videos: as the tables expect them, or one frame.
            interpolate_pos_encoding: take clips of any length and size, and interpolate both tables for them.

        Raises:
            ValueError: if length or size are others and `interpolate_pos_encoding` is not set, or as
                `PatchEmbeddings`.
        """
        num_frames = pixel_values_videos.shape[1]
        is_picture = num_frames == 1 and self.tubelet_size == 1
        patches = self.patch_embeddings(pixel_values_videos)  # (b, t, rows, columns, d)
        grid = (patches.shape[2], patches.shape[3])
        if not interpolate_pos_encoding:
            self._check_size(num_frames, grid, is_picture)
        places = interpolate_places(self.position_embeddings, self.grid, grid)
        patches = patches.flatten(2, 3) + places[:, None, 1:]  # (b, t, p, d)
        if self.temporal_embeddings is not None and not is_picture:
            patches = patches + interpolate_times(self.temporal_embeddings, patches.shape[1])[:, :, None]
        cls_token = (self.cls_token + places[:, :1]).expand(patches.shape[0], -1, -1)
        return torch.cat([cls_token, patches.flatten(1, 2)], dim=1)

    @torch.no_grad()
    def resize(self, num_frames: int, frame_size: tuple[int, int]) -> None:
        """Take clips of another length and size from now on, and interpolate both tables for them.

        A model of pictures gets a table of times, of zeros.

        Args:
            num_frames: a multiple of `tubelet_size`.
            frame_size: height and width in pixels, multiples of the patch size.
        """
        _, height, width = self.patch_embeddings.kernel_size
        grid = (frame_size[0] // height, frame_size[1] // width)
        self.position_embeddings = nn.Parameter(interpolate_places(self.position_embeddings, self.grid, grid).clone())
        self.grid = grid
        times = num_frames // self.tubelet_size
        if num_frames == 1:
            self.temporal_embeddings = None
        elif self.temporal_embeddings is None:
            self.temporal_embeddings = nn.Parameter(self.cls_token.new_zeros(1, times, self.cls_token.shape[-1]))
        else:
            self.temporal_embeddings = nn.Parameter(interpolate_times(self.temporal_embeddings, times).clone())
        self.num_frames = num_frames

    def _check_size(self, num_frames: int, grid: tuple[int, int], is_picture: bool) -> None:
        if num_frames != self.num_frames and not is_picture:
            raise ValueError(
                f"pixel_values_videos must have {self.num_frames} frames, got {num_frames}: "
                "`interpolate_pos_encoding=True` takes any number"
            )
        if grid != self.grid:
            raise ValueError(
                f"frames must have {self.grid[0]} x {self.grid[1]} patches, got {grid[0]} x {grid[1]}: "
                "`interpolate_pos_encoding=True` takes any size"
            )


def interpolate_places(table: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Resize a table of a class token and of places, `(1, 1 + rows * columns, d)`, to another grid, bicubically."""
    if grid == wanted:
        return table
    places = table[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)
    places = places.to(torch.promote_types(table.dtype, torch.float32))
    resized = nn.functional.interpolate(places, size=wanted, mode="bicubic", align_corners=False)
    resized = resized.to(table.dtype).flatten(2).transpose(1, 2)
    return torch.cat([table[:, :1], resized], dim=1)


def interpolate_times(table: Tensor, wanted: int) -> Tensor:
    """Resize a table of times, `(1, t, d)`, to another number of them, linearly.

    In an exported graph `wanted` may be any number, which a comparison would bind.
    """
    if isinstance(wanted, int) and table.shape[1] == wanted:
        return table
    times = table.to(torch.promote_types(table.dtype, torch.float32)).transpose(1, 2)
    resized = nn.functional.interpolate(times, size=wanted, mode="linear", align_corners=False)
    return resized.to(table.dtype).transpose(1, 2)


def sinusoidal_positions(length: int, hidden_size: int, device: torch.device | None = None) -> Tensor:
    """Return the fixed table of Transformers, `(1, length, hidden_size)` in float32: sines and cosines in turns.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    positions = torch.arange(length, dtype=torch.float64, device=device)[:, None]
    channels = torch.arange(hidden_size, device=device)
    pairs = channels.div(2, rounding_mode="floor").to(torch.float64)
    angles = positions / 10000 ** (2 * pairs / hidden_size)
    table = torch.where(channels % 2 == 0, angles.sin(), angles.cos())
    return table[None].float()
